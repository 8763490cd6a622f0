"""macOS' own program keeps it awake; here it is played by a script of that name. Windows' side is in test_windows.py."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

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
