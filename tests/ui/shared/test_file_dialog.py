"""lora_core.ui.shared.file_dialog: typed paths are completed, and the system's dialog is asked where there can be one."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lora_core.ui.shared import file_dialog


def test_typed_paths_are_completed(tmp_path: Path) -> None:
    (tmp_path / "Runs").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "rune.safetensors").touch()
    (tmp_path / "rum.txt").touch()
    assert file_dialog.complete(str(tmp_path / "ru")) == [str(tmp_path / "Runs")]
    assert file_dialog.complete(str(tmp_path / "ru"), ".safetensors") == [
        str(tmp_path / "rune.safetensors"), str(tmp_path / "Runs"),
    ]  # fmt: skip
    assert file_dialog.complete(f"{tmp_path}{os.sep}") == [str(tmp_path / "Runs")]
    assert file_dialog.complete(f"{tmp_path}{os.sep}.") == [str(tmp_path / ".hidden")]
    assert file_dialog.complete("") == []
    assert file_dialog.complete(str(tmp_path / "no" / "such")) == []
    assert file_dialog.complete("a\0b") == []


def test_the_dialog_is_asked_in_a_process_of_its_own(tmp_path: Path) -> None:
    said = "import sys; sys.stdout.buffer.write('|'.join(sys.argv[1:4]).encode())"
    command = (sys.executable, "-c", said)
    assert file_dialog.choose("férias", str(tmp_path), "folder", command) == os.path.normpath(f"férias|{tmp_path}|folder")
    assert file_dialog.choose("x", "nowhere", "folder", command) == os.path.normpath(f"x|{Path.home()}|folder")
    assert file_dialog.choose("x", "nowhere", "folder", (sys.executable, "-c", "")) == ""  # it was closed
    assert file_dialog.choose("x", "nowhere", "folder", (sys.executable, "-c", "raise SystemExit(1)")) is None
    assert file_dialog.choose("x", "nowhere", "folder", ("no-such-program",)) is None


def test_a_dialog_that_is_left_open_is_as_good_as_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave_open(command: list[str], **_: object) -> None:
        raise subprocess.TimeoutExpired(command, 600)

    monkeypatch.setattr(subprocess, "run", leave_open)
    assert file_dialog.choose("x", "", "folder") == ""


def test_without_a_screen_or_a_toolkit_there_is_no_dialog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert file_dialog.has_dialogs("linux", {"DISPLAY": ":0"})
    assert file_dialog.has_dialogs("linux", {"WAYLAND_DISPLAY": "w"})
    assert file_dialog.has_dialogs("win32", {})
    assert not file_dialog.has_dialogs("linux", {})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not file_dialog.has_dialogs("win32", {})


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="there is always a screen")
def test_where_there_is_no_screen_the_real_dialog_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert file_dialog.choose("Folder", "", "folder") is None
