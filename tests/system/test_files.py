"""lora_core.system.files: whole or absent, whatever happens in between."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lora_core.errors import UserError
from lora_core.system import files
from tests import ROOT


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_writes_bytes_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "ação 画像.txt"
    files.write_bytes_whole(target, b"one")
    files.write_bytes_whole(target, b"two")
    assert target.read_bytes() == b"two"
    assert names(tmp_path) == [target.name]


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=st.text())
def test_text_is_utf8_with_its_line_ends(tmp_path: Path, text: str) -> None:
    files.write_text_whole(tmp_path / "a.txt", text)
    assert (tmp_path / "a.txt").read_bytes().decode("utf-8") == text


def test_a_failure_in_the_block_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), files.whole_file(target) as temporary:
        temporary.write_bytes(b"half of the n")
        raise ZeroDivisionError
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_failing_disk_is_told_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")

    def failing(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(UserError, match="a.bin") as told:
        files.write_bytes_whole(target, b"new")
    assert isinstance(told.value.__cause__, OSError)
    assert "\n" not in str(told.value) and "Errno" not in str(told.value)
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_a_missing_folder_and_a_folder_in_the_way_are_told(tmp_path: Path) -> None:
    with pytest.raises(files.WriteError, match="is not there"):
        files.write_bytes_whole(tmp_path / "no" / "a.txt", b"x")
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(files.WriteError, match="in each other's way|no permission"):
        files.write_bytes_whole(tmp_path / "a.txt", b"x")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(files.WriteError, match="file"):
        files.write_bytes_whole(tmp_path / "file" / "a.txt", b"x")
    assert names(tmp_path) == ["a.txt", "file"]


def test_a_name_too_long_is_told(tmp_path: Path) -> None:
    with pytest.raises(files.WriteError, match="too long|cannot be written"):
        files.write_bytes_whole(tmp_path / ("a" * 300), b"x")
    assert names(tmp_path) == []


def test_a_long_but_legal_name_works(tmp_path: Path) -> None:
    target = tmp_path / ("a" * 200 + ".txt")
    files.write_bytes_whole(target, b"x")
    assert target.read_bytes() == b"x"


def test_replace_waits_for_the_file_to_be_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.replace, []

    def held(src: Path, dst: Path) -> None:
        calls.append(src)
        if len(calls) < 4:
            raise PermissionError(errno.EACCES, "used by another process")
        real(src, dst)

    monkeypatch.setattr(os, "replace", held)
    files.write_bytes_whole(tmp_path / "a.txt", b"x")
    assert len(calls) == 4
    assert (tmp_path / "a.txt").read_bytes() == b"x"


def test_replace_gives_up_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def held(src: Path, dst: Path) -> None:
        raise PermissionError(errno.EACCES, "used by another process")

    (tmp_path / "a").write_bytes(b"")
    monkeypatch.setattr(os, "replace", held)
    with pytest.raises(PermissionError):
        files.replace_with_retry(tmp_path / "a", tmp_path / "b", patience_s=0.05)


@pytest.mark.skipif(os.name == "nt", reason="symbolic links and modes are POSIX matters")
def test_links_are_followed_and_modes_kept(tmp_path: Path) -> None:
    real = tmp_path / "real.txt"
    real.write_bytes(b"old")
    real.chmod(0o640)
    (tmp_path / "link.txt").symlink_to(real)
    files.write_bytes_whole(tmp_path / "link.txt", b"new")
    assert (tmp_path / "link.txt").is_symlink()
    assert real.read_bytes() == b"new"
    assert real.stat().st_mode & 0o777 == 0o640


def test_a_new_file_has_the_usual_mode(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    files.write_bytes_whole(tmp_path / "whole", b"")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_killed_writer_leaves_the_old_file_and_a_stray_that_is_swept(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    code = (
        "import os, sys; from pathlib import Path; from lora_core.system import files\n"
        "with files.whole_file(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_bytes(b'half'); os._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(target)], cwd=ROOT, check=False)
    assert done.returncode == 9
    assert target.read_bytes() == b"old"
    assert len(names(tmp_path)) == 2
    assert files.remove_stray_temporaries(tmp_path) == 1
    assert names(tmp_path) == ["a.bin"]


def test_free_bytes_of_what_is_not_there_yet(tmp_path: Path) -> None:
    assert files.free_bytes(tmp_path / "not" / "yet" / "a.bin") > 0


def test_free_bytes_of_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert files.free_bytes(Path("not/yet")) > 0


def test_fsync_folder_accepts_a_folder(tmp_path: Path) -> None:
    files.fsync_folder(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="folders are not opened on Windows")
def test_fsync_folder_tolerates_only_file_systems_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = errno.EINVAL

    def failing(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", failing)
    files.fsync_folder(tmp_path)
    code = errno.EIO
    with pytest.raises(files.WriteError):
        files.fsync_folder(tmp_path)


def test_a_memo_comes_back_as_it_was_written_and_damaged_it_is_none(tmp_path: Path) -> None:
    memo = files.JsonMemo(tmp_path / "home" / "memo.json")
    assert memo.read(dict) == {} and memo.read(list) == []
    assert memo.write({"coração": [1, None]}) and memo.read(dict) == {"coração": [1, None]}
    assert memo.read(list) == []  # of another kind than asked
    for damaged in (b"{", b"\xff", b"[" * 100_000):
        memo.path.write_bytes(damaged)
        assert memo.read(dict) == {}


def test_a_memo_that_cannot_be_written_says_so_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert not files.JsonMemo(tmp_path / "file" / "memo.json").write({})


def test_a_folder_is_made_and_proven_and_nothing_stays_in_it(tmp_path: Path) -> None:
    files.writable_folder(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(files.WriteError, match="in each other's way"):
        files.writable_folder(tmp_path / "file" / "folder")


def test_stamps_change_with_what_is_added_removed_or_written_and_not_with_hidden_files(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a.txt").write_text("a", encoding="utf-8")
    before = files.stamps_below(tmp_path)
    assert before == {str(tmp_path / "below" / "a.txt"): files.stamp(tmp_path / "below" / "a.txt")}
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "b.txt").write_text("b", encoding="utf-8")
    assert files.stamps_below(tmp_path) == before
    (tmp_path / "below" / "a.txt").write_text("ab", encoding="utf-8")
    assert files.stamps_below(tmp_path) != before
    assert files.stamp(tmp_path / "missing") == (-1, -1)
