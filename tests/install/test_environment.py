"""lora_core.install.environment: what state a `.venv` is in, and that one process at a time changes it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lora_core.install.environment import ABSENT, FOREIGN, UNFINISHED, WHOLE, Environment, SetupError
from tests import ROOT

FILES = ("requirements.txt",)


@pytest.fixture
def home(tmp_path: Path) -> Environment:
    """The environment of a folder that has requirements and no `.venv`; its path is not plain ASCII."""
    root = tmp_path / "ação 画"
    root.mkdir()
    (root / "requirements.txt").write_text("alpha>=1\n", encoding="utf-8")
    return Environment(root)


def make_whole(home: Environment) -> None:
    """All that the checks look at, without the cost of a real environment."""
    home.workplace.mkdir(exist_ok=True)
    home.empty()
    home.python.parent.mkdir(parents=True)
    home.python.write_bytes(b"")
    (home.folder / "pyvenv.cfg").write_text(f"home = {home.root}\nversion = 3.11.7\n", encoding="utf-8")
    home.mark_whole(FILES, "3.11.7", "2.13.0+cpu")


def test_states(home: Environment) -> None:
    home.workplace.mkdir()
    assert home.state() == ABSENT
    home.empty()
    assert home.state() == UNFINISHED and not home.is_ready(FILES)
    make_whole(home)
    assert home.state() == WHOLE and home.is_ready(FILES)
    home.mark_unfinished()
    assert home.state() == UNFINISHED and not home.is_ready(FILES)


def test_a_folder_without_marker_is_a_persons(home: Environment) -> None:
    home.folder.mkdir()
    assert home.state() == ABSENT
    (home.folder / "treino.tmp").write_bytes(b"")  # the set-up was killed before it wrote the marker
    assert home.state() == ABSENT
    (home.folder / "pyvenv.cfg").write_bytes(b"")
    assert home.state() == FOREIGN and not home.is_ready(FILES)


@pytest.mark.parametrize("content", [b"", b"{", b'{"state": "who', b"[]", b'"whole"', b"\xff\xfe", b'{"state": 1}'])
def test_a_marker_that_was_cut_off_is_no_marker_of_wholeness(home: Environment, content: bytes) -> None:
    make_whole(home)
    home.marker.write_bytes(content)
    assert home.state() == UNFINISHED and not home.is_ready(FILES)


def test_other_requirements_make_it_unready(home: Environment) -> None:
    make_whole(home)
    (home.root / "requirements.txt").write_bytes(b"alpha>=1\r\n")
    assert home.is_ready(FILES), "git on Windows may turn line ends"
    (home.root / "requirements.txt").write_bytes(b"alpha>=2\n")
    assert home.state() == WHOLE and not home.is_ready(FILES)


def test_it_is_ready_for_the_files_it_was_made_from(home: Environment) -> None:
    make_whole(home)
    (home.root / "more.txt").write_bytes(b"beta\n")
    assert not home.is_ready((*FILES, "more.txt"))
    home.mark_whole((*FILES, "more.txt"), "3.11.7", "")
    assert home.is_ready((*FILES, "more.txt")) and home.is_ready(FILES)


def test_a_lost_interpreter_makes_it_unready(home: Environment) -> None:
    make_whole(home)
    home.python.unlink()
    assert home.state() == WHOLE and not home.can_start() and not home.is_ready(FILES)


def test_a_base_python_that_was_uninstalled_makes_it_unready(home: Environment) -> None:
    make_whole(home)
    (home.folder / "pyvenv.cfg").write_text(f"home = {home.root / 'gone'}\n", encoding="utf-8")
    assert not home.is_ready(FILES)


def test_the_python_it_was_made_with_is_remembered(home: Environment) -> None:
    make_whole(home)
    assert home.is_for((3, 11)) and not home.is_for((3, 12)) and not home.is_for((3, 1))


def test_emptying_that_is_cut_short_leaves_nothing_that_looks_like_a_persons(
    home: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_whole(home)

    def killed(folder: Path) -> None:
        (folder / "treino.json").unlink()  # deletion has no order one could count on
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        home.empty()
    assert home.state() == ABSENT
    monkeypatch.undo()
    home.empty()
    assert home.state() == UNFINISHED
    assert [path.name for path in home.workplace.iterdir()] == []


def test_emptying_what_is_in_use_is_told(home: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    make_whole(home)

    def in_use(*_: object) -> None:
        raise PermissionError(13, "Access is denied")

    monkeypatch.setattr(os, "replace", in_use)
    with pytest.raises(SetupError, match="close every program that uses it"):
        home.empty()


HOLD = """
import subprocess, sys, time
from pathlib import Path
from lora_core.install.environment import Environment
with Environment(Path(sys.argv[1])).locked(print) as lock:
    if sys.argv[2] == "child":
        command = [sys.executable, "-c", "import time; time.sleep(60)"]
        subprocess.Popen(command, pass_fds=(lock,), stdout=subprocess.DEVNULL)
    print("held", flush=True)
    time.sleep(60)
"""


def hold(home: Environment, how: str) -> subprocess.Popen[str]:
    """A process that holds the lock of `home` for a minute."""
    command = [sys.executable, "-c", HOLD, str(home.root), how]
    options = {"start_new_session": True} if os.name == "posix" else {}
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload]
    assert process.stdout.readline() == "held\n"
    assert isinstance(process, subprocess.Popen)
    return process


def test_a_second_process_waits_for_the_first_and_is_told_which(home: Environment) -> None:
    first, said = hold(home, "alone"), []

    def say(line: str) -> None:
        said.append(line)
        first.kill()  # what a lock file alone would never recover from

    with home.locked(say):
        assert first.wait() != 0, "the lock was given while the other process had it"
    assert len(said) == 1 and f"process {first.pid}" in said[0]
    first.communicate()


def test_the_lock_is_free_again_afterwards(home: Environment) -> None:
    for _ in range(2):
        with home.locked(pytest.fail):
            assert home.lock_file.read_text(encoding="utf-8").strip() == str(os.getpid())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends the children of a console together")
def test_a_pip_that_outlives_its_set_up_is_waited_for(home: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    first = hold(home, "child")
    first.kill()
    first.communicate()
    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            os.killpg(first.pid, 9)

    monkeypatch.setattr(time, "sleep", wait)
    said: list[str] = []
    with home.locked(said.append):
        assert len(waited) >= 3 and len(said) == 1


def test_a_folder_that_cannot_be_written_is_told(home: Environment) -> None:
    home.workplace.write_bytes(b"")
    with pytest.raises(SetupError, match="cannot write to its folder"), home.locked(print):
        pytest.fail("there is no lock to hold")
