"""lora_core.runs.lock: one program at a time in a run folder, and no dead one keeps it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from lora_core.errors import UserError
from lora_core.events import Event, Phase
from lora_core.runs import lock
from lora_core.training.job import Job
from tests import ROOT
from tests.support.training import config_for, run

SLEEPER = """
import sys
from pathlib import Path
from lora_core.runs import lock
lock.take(Path(sys.argv[1]))
print("in", flush=True)
input()
"""


def test_it_is_taken_once_and_given_back(tmp_path: Path) -> None:
    mine = lock.take(tmp_path)
    assert lock.holder(tmp_path) == mine and not lock.is_held_elsewhere(tmp_path)
    with pytest.raises(UserError, match="is in use: this program trains there. Wait"):
        lock.take(tmp_path)
    lock.release(tmp_path, mine)
    assert lock.holder(tmp_path) is None and list(tmp_path.iterdir()) == []


def test_another_program_is_named_while_it_lives_and_forgotten_when_it_was_killed(tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", SLEEPER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        cwd=ROOT,
    )  # fmt: skip
    try:
        assert other.stdout is not None and other.stdout.readline().strip() == b"in"
        assert lock.is_held_elsewhere(tmp_path)
        with pytest.raises(UserError, match=rf"another program \(process {other.pid}\) trains there"):
            lock.take(tmp_path)
    finally:
        other.kill()
        other.communicate()
    assert not lock.is_held_elsewhere(tmp_path)
    lock.release(tmp_path, lock.take(tmp_path))


def test_a_number_that_another_process_has_now_is_no_holder(tmp_path: Path) -> None:
    mine = lock.take(tmp_path)
    note = json.loads((tmp_path / lock.NAME).read_text(encoding="utf-8"))
    note |= {"pid": psutil.Process().ppid(), "started": 12345.0}
    (tmp_path / lock.NAME).write_text(json.dumps(note), encoding="utf-8")
    assert lock.holder(tmp_path) is None
    lock.release(tmp_path, mine)
    assert (tmp_path / lock.NAME).exists()  # it is no longer ours to remove
    lock.take(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"pid": -1}', '{"pid": 1e999}', "\0", '{"pid": "x"}', "[" * 9999])
def test_a_damaged_note_holds_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / lock.NAME).write_text(text, encoding="utf-8")
    assert lock.holder(tmp_path) is None
    lock.release(tmp_path, lock.take(tmp_path))


def test_what_another_computer_noted_is_believed_and_told(tmp_path: Path) -> None:
    lock.take(tmp_path)
    note = json.loads((tmp_path / lock.NAME).read_text(encoding="utf-8"))
    (tmp_path / lock.NAME).write_text(json.dumps(note | {"host": "atelier"}), encoding="utf-8")
    with pytest.raises(UserError, match=r"computer atelier.*delete .*treino-lock"):
        lock.take(tmp_path)


def test_of_many_at_once_one_gets_it(tmp_path: Path) -> None:
    got: list[lock.Holder] = []

    def attempt() -> None:
        with contextlib.suppress(UserError):
            got.append(lock.take(tmp_path))

    threads = [threading.Thread(target=attempt) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1 and lock.holder(tmp_path) == got[0]


def test_a_second_training_on_a_run_is_refused_and_changes_nothing(tiny_sd1: Path, pictures: Path, tmp_path: Path) -> None:
    config = config_for(tiny_sd1, pictures, tmp_path, max_train_steps=3)
    second: list[Job] = []

    def intrude(job: Job, event: Event) -> None:
        if isinstance(event, Phase) and event.name == "cache" and not second:
            second.append(run(config)[0])

    first, _ = run(config, on_event=intrude)
    assert first.error is None
    assert isinstance(second[0].error, UserError) and "is in use" in str(second[0].error)
    assert second[0].state == "failed" and not (tmp_path / "previous").exists()
    assert lock.holder(tmp_path) is None
    assert run(config)[0].error is None
