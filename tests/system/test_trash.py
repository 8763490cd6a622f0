"""Deleting to the trash of each system and bringing back; Windows' shell is a fake that does what it is told."""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from lora_core.errors import UserError
from lora_core.system import recycle_bin, trash
from lora_core.system.trash import BESIDE, BIN, TRASH, System, bring_back, discard

NAME = "férias 100% [2]"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run-like folder with a file in it."""
    made = tmp_path / "runs" / NAME
    made.mkdir(parents=True)
    (made / "config.toml").write_text("schema = 1", encoding="utf-8")
    return made


def linux(tmp_path: Path) -> System:
    return System("linux", tmp_path / "home", {})


@pytest.mark.skipif(os.name == "nt", reason="the freedesktop trash is of other systems")
def test_the_freedesktop_trash_keeps_the_thing_and_what_it_was(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "home").mkdir()
    gone = discard(folder, linux(tmp_path))
    place = tmp_path / "home/.local/share/Trash"
    assert (gone.kind, gone.kept, gone.info) == (TRASH, place / "files" / NAME, place / "info" / f"{NAME}.trashinfo")
    assert not folder.exists()
    assert gone.info is not None
    head, path, date = gone.info.read_text(encoding="ascii").splitlines()
    assert (head, unquote(path)) == ("[Trash Info]", f"Path={folder}")
    assert abs(time.mktime(time.strptime(date, "DeletionDate=%Y-%m-%dT%H:%M:%S")) - gone.at) < 2
    assert bring_back(gone) == folder
    assert (folder / "config.toml").is_file()
    assert [*place.glob("*/*")] == []


@pytest.mark.skipif(os.name == "nt", reason="the freedesktop trash is of other systems")
def test_two_of_a_name_are_both_kept(tmp_path: Path, folder: Path) -> None:
    system = linux(tmp_path)
    first = discard(folder, system)
    folder.mkdir()
    (folder / "second").touch()
    second = discard(folder, system)
    assert first.kept != second.kept
    bring_back(second)
    assert (folder / "second").exists()
    with pytest.raises(UserError, match="exists again"):
        bring_back(first)
    assert first.kept is not None
    assert first.kept.exists()


@pytest.mark.skipif(os.name == "nt", reason="the freedesktop trash is of other systems")
def test_another_disk_has_a_trash_of_its_own(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What os.rename says between two disks, and where the disk begins."""
    monkeypatch.setattr(trash, "_top", lambda path: tmp_path)
    rename = os.rename

    def between(source: Any, target: Any) -> None:
        if "home" in str(target):
            raise OSError(18, "Invalid cross-device link")
        rename(source, target)

    monkeypatch.setattr(os, "rename", between)
    gone = discard(folder, linux(tmp_path))
    own = tmp_path / f".Trash-{os.getuid()}"
    assert gone.kept == own / "files" / NAME
    assert gone.info is not None
    assert unquote(gone.info.read_text(encoding="ascii").splitlines()[1]) == f"Path=runs/{NAME}"
    assert [*(tmp_path / "home").rglob("*.trashinfo")] == []
    bring_back(gone)
    (tmp_path / ".Trash").mkdir()
    (tmp_path / ".Trash").chmod(0o1777)
    assert discard(folder, linux(tmp_path)).kept == tmp_path / ".Trash" / str(os.getuid()) / "files" / NAME


@pytest.mark.skipif(os.name == "nt", reason="macOS' trash needs its user numbers")
def test_macs_have_one_folder(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/.Trash" / NAME).mkdir(parents=True)
    gone = discard(folder, System("darwin", tmp_path / "home", {}))
    assert (gone.kind, gone.kept) == (TRASH, tmp_path / "home/.Trash" / f"{NAME} 2")
    bring_back(gone)
    assert (folder / "config.toml").is_file()


class FakeWindows:
    """Keeps what the shell was asked for, and moves it to a bin as Windows lays it out."""

    def __init__(self, bin_folder: Path, code: int = 0, drive: int = 3, version: int = 2):
        self.bin, self.code, self.drive, self.version = bin_folder / "S-1-5-21", code, drive, version
        self.asked: list[tuple[str, int, int]] = []
        self.bin.mkdir(parents=True)
        (bin_folder / "S-1-5-18").write_text("no folder", encoding="utf-8")
        (self.bin / "$IBROKEN").write_bytes(b"short")

    def delete(self, pointer: Any) -> int:
        operation = pointer._obj
        name = ctypes.wstring_at(operation.pFrom)
        ended = ctypes.wstring_at(operation.pFrom, len(name) + 2)
        assert ended == f"{name}\0\0", "the list of names is not ended"
        self.asked.append((name, operation.wFunc, operation.fFlags))
        if self.code == 0:
            shutil.move(name, self.bin / "$RABC123")
            (self.bin / "$IABC123").write_bytes(self.info(name))
        return self.code

    def info(self, name: str) -> bytes:
        head = struct.pack("<qqq", self.version, 5, int((time.time() + 11_644_473_600) * 1e7))
        text = f"{name}\0".encode("utf-16-le")
        return head + (text.ljust(520, b"\0") if self.version == 1 else struct.pack("<i", len(text) // 2) + text)

    def system(self, tmp_path: Path) -> System:
        shell = recycle_bin.Shell(self.delete, lambda root: self.drive)
        return System("win32", tmp_path / "home", {}, shell, tmp_path / "$Recycle.Bin")


@pytest.mark.parametrize("version", [1, 2])
def test_windows_shell_is_asked_for_the_bin_and_gives_back(tmp_path: Path, folder: Path, version: int) -> None:
    windows = FakeWindows(tmp_path / "$Recycle.Bin", version=version)
    gone = discard(folder, windows.system(tmp_path))
    assert (gone.kind, gone.kept, folder.exists()) == (BIN, None, False)
    ((name, function, flags),) = windows.asked
    assert (name, function) == (str(folder), 3)
    assert flags & 0x0040, "without this flag Windows deletes for good"
    assert flags & 0x4000, "without this flag Windows does not ask before it deletes what the bin cannot hold"
    assert bring_back(gone, windows.system(tmp_path)) == folder
    assert (folder / "config.toml").is_file()
    with pytest.raises(UserError, match="exists again"):
        bring_back(gone, windows.system(tmp_path))
    shutil.rmtree(folder)
    with pytest.raises(UserError, match="no longer in the trash"):
        bring_back(gone, windows.system(tmp_path))


def test_an_older_thing_of_that_name_in_the_bin_is_not_given_back(tmp_path: Path, folder: Path) -> None:
    windows = FakeWindows(tmp_path / "$Recycle.Bin")
    gone = discard(folder, windows.system(tmp_path))
    assert recycle_bin.find(folder, gone.at + 60, tmp_path / "$Recycle.Bin") is None
    assert recycle_bin.find(folder, gone.at, tmp_path / "no bin") is None


@pytest.mark.parametrize(("code", "drive"), [(0x20, 3), (0, 4)], ids=["the shell refuses", "a network drive"])
def test_without_a_bin_a_folder_beside_keeps_it(tmp_path: Path, folder: Path, code: int, drive: int) -> None:
    windows = FakeWindows(tmp_path / "$Recycle.Bin", code, drive)
    gone = discard(folder, windows.system(tmp_path))
    assert len(windows.asked) == (drive == 3)
    assert (gone.kind, gone.kept) == (BESIDE, folder.parent / ".trash" / NAME)
    bring_back(gone, windows.system(tmp_path))
    assert (folder / "config.toml").is_file()
    assert not (folder.parent / ".trash").exists()


def test_what_cannot_be_moved_stays_and_is_told(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Any, target: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(UserError, match=r"could not be deleted \(Permission denied\); nothing was changed"):
        discard(folder, linux(tmp_path))
    assert (folder / "config.toml").is_file()


def test_what_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not there any more"):
        discard(tmp_path / "nothing", linux(tmp_path))


def test_this_computer_has_a_trash(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real system, with its trash in a temporary home where that can be said."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path))
    gone = discard(folder)
    assert not folder.exists()
    bring_back(gone)
    assert (folder / "config.toml").is_file()
