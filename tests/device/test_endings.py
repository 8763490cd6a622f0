"""Trainings on a device that are stopped or run out of memory, and many in a row: what they leave behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lora_core.events import Event, Failed, Finished, Phase, Sample, Saved, State, Step, Warned
from lora_core.training.job import Job
from tests.device.held import Held, held
from tests.support.training import config_for, run

AT_ONCE_S = 5.0  # with the save that comes after
FLAT = 32 * 2**20  # bytes: libraries take workspaces when they first need them
TOO_MUCH = 2**50  # bytes: no device has them, and every allocator refuses them itself
SHORT: dict[str, object] = {
    "max_train_steps": 4, "save_steps": 2, "sample_count": 1, "sample_inference_steps": 1, "validation_split": 0.2,
    "cuda_graphs": "on",  # where the device has them: what they hold has to be given back too
}  # fmt: skip


def test_a_stop_is_heeded_at_once_and_saves(device: str, tiny_sd1: Path, pictures: Path, tmp_path: Path) -> None:
    config = config_for(
        tiny_sd1, pictures, tmp_path, device=device, mixed_precision="fp16", cuda_graphs="on", max_train_steps=1_000_000,
        save_steps=1_000_000,
    )  # fmt: skip
    asked: list[float] = []
    heard = threading.Event()

    def listen(event: Event) -> None:
        if isinstance(event, Step):
            heard.set()

    job = Job(config, listeners=[listen])
    job.start()
    assert heard.wait(120), "no step was told"
    time.sleep(2)  # by now a device that is slower than Python has a queue
    asked.append(time.monotonic())
    job.controls.stop()
    assert job.wait(120) and job.error is None
    assert time.monotonic() - asked[0] < AT_ONCE_S
    told = [event for event, _ in job.run.read()[0]]
    ended = told[-1]
    assert isinstance(ended, Finished) and ended.stopped and job.run.lora_file(config).is_file()
    assert [event.step for event in told if isinstance(event, Step)] == list(range(1, ended.step + 1))


MOMENTS: dict[str, Callable[[Event], bool]] = {
    "start": lambda event: isinstance(event, State),
    "load": lambda event: isinstance(event, Phase) and event.name == "load",
    "cache": lambda event: isinstance(event, Phase) and event.name == "cache",
    "step": lambda event: isinstance(event, Step),
    "sample": lambda event: isinstance(event, Phase) and event.name == "sample",
    "draw": lambda event: isinstance(event, Sample) and event.step == 2,
    "save": lambda event: isinstance(event, Saved),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_memory_that_is_refused_is_told_and_given_back(
    moment: str, device: str, tiny_sd1: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TREINO_CACHE", str(tmp_path / "cache"))  # so that every phase has work to do
    config = config_for(tiny_sd1, pictures, tmp_path / "out", device=device, mixed_precision="fp16", **SHORT)
    left = [MOMENTS[moment]]

    def on_event(job: Job, event: Event) -> None:
        if left and left[0](event):
            left.clear()
            torch.empty(TOO_MUCH, dtype=torch.uint8, device=device)

    before = held(device)
    job, events = run(config, on_event=on_event)
    assert not left, "the moment never came"
    assert job.state == "failed" and isinstance(events[-1], Failed) and "out of memory" in str(events[-1].message)
    del job
    after = held(device)
    assert after.allocated <= before.allocated + FLAT and after.reserved <= before.reserved + FLAT
    again, events = run(config)
    assert again.error is None and isinstance(events[-1], Finished)


def test_ten_trainings_in_a_row_leave_nothing_behind(device: str, tiny_sd1: Path, pictures: Path, tmp_path: Path) -> None:
    found: list[Held] = []
    for number in range(10):
        asked = {**SHORT, "device": device, "mixed_precision": "fp16", "seed": number}
        job, events = run(config_for(tiny_sd1, pictures, tmp_path / "out", **asked))
        assert job.error is None and not [e for e in events if isinstance(e, Warned) and "graph" in str(e.message)]
        del job, events
        found.append(held(device))
    first, *rest = found[1:]  # the first fills what is kept for good
    assert max(each.tensors for each in rest) <= first.tensors
    assert max(each.allocated for each in rest) <= first.allocated + FLAT
    assert max(each.reserved for each in rest) <= first.reserved + FLAT
