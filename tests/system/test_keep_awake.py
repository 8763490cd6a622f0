"""macOS' own program keeps it awake; here it is played by a script of that name. Windows' side is in test_windows.py."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from lora_core.system import keep_awake
from lora_core.system.keep_awake import awake


def wait_for(text: Path) -> list[str]:
    """What the script was called with, and its own number."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if text.is_file() and (said := text.read_text(encoding="utf-8")).endswith("\n"):
            return said.split()
        time.sleep(0.01)
    raise AssertionError("the program was not started")


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script plays the program")
def test_macos_stays_awake_within_the_block_however_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, noted = tmp_path / "caffeinate", tmp_path / "noted"
    program.write_text(f'#!/bin/sh\necho "$@" $$ > "{noted}"\nexec sleep 600\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(ZeroDivisionError), awake("darwin"):
        *arguments, number = wait_for(noted)
        assert arguments == ["-i", "-w", str(os.getpid())] and psutil.pid_exists(int(number))
        raise ZeroDivisionError
    assert not psutil.pid_exists(int(number))


def test_a_computer_without_it_trains_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for platform in ("darwin", "linux"):
        with awake(platform):
            pass


WINDOWS = """
Energieschema-GUID: 381b4222-f694-41f0-9685-ff5bb260df2e  (Ausbalanciert)
    Minimale mögliche Einstellung: 0x00000000
    Maximale mögliche Einstellung: 0xffffffff
    Index der aktuellen Wechselstromeinstellung: 0x00000708
    Index der aktuellen Gleichstromeinstellung: 0x00000384
"""


@pytest.mark.parametrize(
    ("platform", "answers", "seconds"),
    [
        ("win32", {"powercfg": WINDOWS}, 1800.0), ("win32", {"powercfg": "denied"}, None), ("win32", {}, None),
        ("darwin", {"pmset": " hibernatemode  3\n sleep                1 (sleep prevented by x)\n displaysleep 10"}, 60.0),
        ("darwin", {"pmset": " sleep 0\n"}, 0.0), ("darwin", {}, None),
        ("linux", {"sleep-inactive-ac-timeout": "3600\n", "sleep-inactive-ac-type": "'suspend'\n"}, 3600.0),
        ("linux", {"sleep-inactive-ac-timeout": "uint32 900\n", "sleep-inactive-ac-type": "'nothing'\n"}, 0.0),
        ("linux", {}, None),
    ],
    ids=str,
)  # fmt: skip
def test_when_a_computer_falls_asleep(
    platform: str, answers: dict[str, str], seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(*command: str) -> str:
        return next((text for name, text in answers.items() if name in (command[0], command[-1])), "")

    monkeypatch.setattr(keep_awake, "_said", said)
    assert keep_awake.sleeps_after(platform) == seconds
    assert keep_awake.can_keep_awake(platform) == (platform != "linux")


def test_a_program_that_is_not_there_or_fails_says_nothing() -> None:
    assert keep_awake._said("no-such-program-here") == ""
    assert keep_awake._said(sys.executable, "-c", "print('x'); raise SystemExit(3)") == ""
    assert keep_awake._said(sys.executable, "-c", "print('x')").strip() == "x"
