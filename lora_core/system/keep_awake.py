"""A computer that does not fall asleep while it trains, and when it would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lora_core.system import windows

_PATIENCE_S = 5.0  # for a program of the system to answer


@contextmanager
def awake(platform: str = sys.platform) -> Iterator[None]:
    """Within the block, and in the thread that runs it, Windows and macOS stay awake; Linux rarely sleeps by itself."""
    caffeine = _caffeinate() if platform == "darwin" else None
    try:
        with windows.awake():
            yield
    finally:
        if caffeine:
            caffeine.terminate()
            caffeine.wait()


def can_keep_awake(platform: str = sys.platform) -> bool:
    """Whether `awake` has an effect here."""
    return platform in ("win32", "darwin")


def sleeps_after(platform: str = sys.platform) -> float | None:
    """Seconds without anybody at it after which the computer, on mains power, falls asleep; 0: never; None: not told.

    As `powercfg` (Windows), `pmset` (macOS) and the GNOME desktop say, whatever their language is.
    """
    if platform == "win32":
        told = re.findall(r"0x([0-9a-fA-F]{8})", _said("powercfg", "/query", "SCHEME_CURRENT", "SUB_SLEEP", "STANDBYIDLE"))
        return float(int(told[-2], 16)) if len(told) >= 2 else None  # the last two: on mains power, on battery
    if platform == "darwin":
        minutes = re.search(r"^\s*sleep\s+(\d+)", _said("pmset", "-g"), re.MULTILINE)
        return 60.0 * int(minutes[1]) if minutes else None
    power = "org.gnome.settings-daemon.plugins.power"
    seconds = re.fullmatch(r"(?:u?int32 )?(\d+)", _said("gsettings", "get", power, "sleep-inactive-ac-timeout").strip())
    if not seconds:
        return None
    return float(seconds[1]) if "nothing" not in _said("gsettings", "get", power, "sleep-inactive-ac-type") else 0.0


def _said(*command: str) -> str:
    """What a program of the system answers; empty where there is none, or it fails."""
    hidden = getattr(subprocess, "CREATE_NO_WINDOW", 0)
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE_S, check=False, creationflags=hidden
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else ""


def _caffeinate() -> subprocess.Popen[bytes] | None:
    """macOS' own program for this; it ends by itself with our process, however that ends."""
    command = ["caffeinate", "-i", "-w", str(os.getpid())]
    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError:
        return None
