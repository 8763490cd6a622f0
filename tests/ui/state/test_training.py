from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path

import psutil
import pytest

from lora_core.errors import UserError
from lora_core.events import Failed, Finished, Phase, Sample, State, Step, Validation, to_line
from lora_core.messages import plain
from lora_core.runs import lock
from lora_core.runs.history import History
from lora_core.runs.run import Run
from lora_core.ui.state.training import Training
from tests.support.training import config_for


def wait_for(training: Training, *states: str) -> None:
    deadline = time.monotonic() + 120
    while training.state() not in states:
        assert time.monotonic() < deadline, f"{training.state()} is not {states}"
        time.sleep(0.01)


def test_the_state_is_that_of_the_live_thread(tiny_sd1: Path, pictures: Path, tmp_path: Path) -> None:
    training = Training()
    assert training.state() == "idle" and not training.busy()
    with pytest.raises(UserError, match="start one first"):
        training.pause()
    config = config_for(tiny_sd1, pictures, tmp_path / "one", max_train_steps=100_000, save_steps=100_000)
    run = training.start(config)
    training.pause()
    assert training.state() in ("pausing", "paused")
    with pytest.raises(UserError, match="already"):
        training.start(config.replace(output_dir=str(tmp_path / "other")))
    wait_for(training, "paused")
    training.unpause()
    assert training.state() == "running"
    while training.history(run).step < 3:
        time.sleep(0.05)
    training.save_now()
    training.stop()
    assert training.state() in ("stopping", "stopped")
    wait_for(training, "stopped")
    history = training.history(run)
    assert training.history(Run(tmp_path / "one")) is history
    assert history.step == history.facts.finished.step if history.facts.finished else False
    assert history.saved[-1].step == history.step and (tmp_path / "one" / "pytorch_lora_weights.safetensors").is_file()
    version = history.version
    assert history.update() == version, "nothing new, no new version"

    # The same folder, gone on with: its history is told anew, without the end.
    training.start(config.replace(max_train_steps=history.step + 2), resume="latest")
    wait_for(training, "finished", "failed")
    assert training.state(run) == "finished" and training.history(run).step == training.history(run).total


def test_a_failure_before_there_is_a_folder_is_known(tiny_sd1: Path, tmp_path: Path) -> None:
    training = Training()
    training.start(config_for(tiny_sd1, tmp_path / "nowhere", tmp_path / "out"))
    wait_for(training, "failed")
    failure = training.failure()
    assert failure is not None and "nowhere" in str(failure.message)
    training.show(Run(tmp_path))
    assert training.state() == "cut" and training.failure() is None


def train_elsewhere(run: Run) -> None:
    """Note a living process that is not this one as the one that trains."""
    other = psutil.Process().parent()
    assert other is not None
    note = {"pid": other.pid, "started": other.create_time(), "host": platform.node(), "token": "x"}
    (run.folder / lock.NAME).write_text(json.dumps(note), encoding="utf-8")


def write(run: Run, *events: object, at: float = 1000.0) -> None:
    with run.events_file.open("a", encoding="utf-8") as file:
        file.writelines(to_line(event, at) + "\n" for event in events)  # type: ignore[arg-type]


def test_a_history_follows_the_file_and_notices_a_new_one(tmp_path: Path) -> None:
    run = Run(tmp_path)
    history = History(run)
    assert history.update() == 0
    write(run, State("running"), Phase("cache", 3, 9))
    assert history.update() == 1 and history.facts.phase == Phase("cache", 3, 9) and history.ended == ""
    write(run, Step(1, 50, 0.5, 1e-3), Step(2, 50, 0.4, 1e-3, 2.0, 24.0), Validation(2, 0.3, 0.2, True))
    history.update()
    assert history.facts.phase is None and (history.step, history.total) == (2, 50)
    assert [p for p, _ in history.losses[1].points()] == [1, 2] and history.losses[0].last == pytest.approx(0.45, abs=0.01)
    assert history.best == Validation(2, 0.3, 0.2, True) and history.has_held_out
    write(run, Sample(0, "samples/a.png", "a", 1), Sample(2, "samples/b.png", "b", 1), Finished(2, "x", 2, True))
    history.update()
    assert history.ended == "stopped" and list(history.samples) == [0, 2]
    write(run, State("running"))
    history.update()
    assert history.ended == ""

    # Gone on with from step 1: the file is replaced by one that need not be shorter.
    fresh = tmp_path / "fresh"
    os.replace(run.events_file, fresh)
    write(run, Step(1, 60, 0.5, 1e-3), *[Step(n, 60, 0.1, 1e-3) for n in range(2, 30)])
    version = history.version
    assert history.update() > version and history.total == 60
    assert history.losses[1].points()[:2] == [(1, 0.5), (2, 0.1)] and not history.samples


def test_time_left_is_counted_down_and_unknown_when_it_is(tmp_path: Path) -> None:
    run = Run(tmp_path)
    history = History(run)
    assert history.eta_seconds() == -1
    write(run, Step(1, 50, 0.5, 1e-3, 2.0, 25.0))
    history.update()
    assert history.eta_seconds(1000.0) == -1, "one step says nothing yet"
    write(run, Step(5, 50, 0.5, 1e-3, 2.0, 22.5))
    history.update()
    assert history.eta_seconds(1002.5) == 20.0 and history.eta_seconds(2000.0) == 0.0
    write(run, Phase("sample", 0, 4))
    history.update()
    assert history.eta_seconds(1002.5) == 22.5
    write(run, Failed(plain("out"), ""))
    history.update()
    assert history.ended == "failed"


def test_a_run_that_broke_off_is_not_taken_for_running(tmp_path: Path) -> None:
    training, run = Training(), Run(tmp_path)
    write(run, State("running"), Step(1, 50, 0.5, 1e-3))
    assert training.state(run) == "cut"
    train_elsewhere(run)
    assert training.state(run) == "elsewhere"
    write(run, Finished(2, "x", 2, False))
    assert training.state(run) == "finished"
