"""The one window of a user: where it runs, whether it still does, and how to bring it up."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from lora_core.files import write_text_whole

_FILE = "running.json"
_LINUX = ("microsoft-edge", "google-chrome", "google-chrome-stable", "chromium", "chromium-browser")
_WINDOWS = (r"Microsoft\Edge\Application\msedge.exe", r"Google\Chrome\Application\chrome.exe")
_MAC = ("Google Chrome", "Microsoft Edge", "Chromium")


def running(home: Path) -> str:
    """The address of the window that runs already, "" when there is none; a note of a dead one means nothing."""
    try:
        address = str(json.loads((home / _FILE).read_text(encoding="utf-8"))["address"])
        with urllib.request.urlopen(f"{address}ping", timeout=2) as answer:
            return address if "treino" in json.load(answer) else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def note(home: Path, address: str) -> None:
    """Write down where the window runs."""
    with contextlib.suppress(OSError, ValueError):  # without a note a second start opens a window of its own
        home.mkdir(parents=True, exist_ok=True)
        write_text_whole(home / _FILE, json.dumps({"address": address, "pid": os.getpid()}))


def forget(home: Path) -> None:
    with contextlib.suppress(OSError, ValueError):
        if json.loads((home / _FILE).read_text(encoding="utf-8")).get("pid") == os.getpid():
            (home / _FILE).unlink()


def open_app_window(address: str, home: Path) -> bool:
    """Open the address in a window without tabs and address bar; False where no browser can."""
    for browser in browsers():
        try:
            subprocess.Popen(
                [browser, f"--app={address}", f"--user-data-dir={home / 'browser'}", "--no-first-run"],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=sys.platform != "win32",
            )  # fmt: skip
            return True
        except OSError:
            continue
    return False


def browsers() -> Iterator[str]:
    """Programs on this computer that know `--app=`, as far as there is a display to open a window on."""
    if sys.platform == "win32":
        folders = [os.environ.get(name) for name in ("ProgramFiles(x86)", "ProgramFiles", "LOCALAPPDATA")]
        for name in _WINDOWS:
            yield from (path for folder in folders if folder and os.path.isfile(path := os.path.join(folder, name)))
    elif sys.platform == "darwin":
        for name in _MAC:
            if os.path.isfile(path := f"/Applications/{name}.app/Contents/MacOS/{name}"):
                yield path
    elif os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        yield from (path for name in _LINUX if (path := shutil.which(name)))
