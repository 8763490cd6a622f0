"""lora_core.system.files.write_together: all of the files or none, whatever fails at whatever moment."""

from __future__ import annotations

import os
from collections import namedtuple
from pathlib import Path

import pytest

from lora_core.system import files
from lora_core.system.files import WriteError, write_together


def _accept(temporary: Path, final: Path) -> None:
    assert temporary.parent == final.parent


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_all_are_written(tmp_path: Path) -> None:
    write_together({tmp_path / "a": b"1", tmp_path / "b": b""}, _accept)
    assert _contents(tmp_path) == {"a": b"1", "b": b""}


def test_old_ones_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    write_together({tmp_path / "a": b"new", tmp_path / "b": b"2"}, _accept)
    assert _contents(tmp_path) == {"a": b"new", "b": b"2"}


@pytest.mark.parametrize("failing", ["a", "b"])
def test_what_is_not_verified_changes_nothing(failing: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")

    def verify(temporary: Path, final: Path) -> None:
        assert temporary.exists()
        if final.name == failing:
            raise ValueError("not what was meant")

    with pytest.raises(ValueError, match="meant"):
        write_together({tmp_path / "a": b"new", tmp_path / "b": b"2"}, verify)
    assert _contents(tmp_path) == {"a": b"old"}


@pytest.mark.parametrize("can_link", [True, False])
@pytest.mark.parametrize("error", [PermissionError(13, "in use"), KeyboardInterrupt()])
@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_move_that_fails_takes_the_others_back(
    failing: int, error: BaseException, can_link: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"old a")
    (tmp_path / "c").write_bytes(b"old c")
    before, moves, real = _contents(tmp_path), [], files.replace_with_retry

    def move(src: Path, dst: Path) -> None:
        moves.append(dst.name)
        if len(moves) == failing + 1:
            raise error
        real(src, dst)

    def no_link(*_: object) -> None:
        raise OSError(1, "no second names here")

    monkeypatch.setattr(files, "replace_with_retry", move)
    if not can_link:
        monkeypatch.setattr(os, "link", no_link)
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else WriteError
    with pytest.raises(expected):
        write_together({tmp_path / name: b"new" for name in "abc"}, _accept)
    assert _contents(tmp_path) == before


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10**9, 10**9, 500_000))
    with pytest.raises(WriteError, match=r"disk is full.*Free some space"):
        write_together({tmp_path / "a": b"x"}, _accept)
    assert _contents(tmp_path) == {}


def test_a_disk_that_fills_up_meanwhile_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="disk is full"):
        write_together({tmp_path / "a": b"x"}, _accept)
    assert _contents(tmp_path) == {}


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="not there"):
        write_together({tmp_path / "none" / "a": b"x"}, _accept)
