"""A training that something is taken away from: disk, folder, pictures, memory, time. It is told; what was saved stands."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from lora_core.config import TrainConfig
from lora_core.errors import UserError
from lora_core.events import Event, Failed, Finished, Phase, Sample, Saved, State, Step, Validation, Warned
from lora_core.runs.run import resumable
from lora_core.training import checkpoint
from lora_core.training.estimate.fit import after_failure
from lora_core.training.job import Job
from lora_core.ui.state.training import Training
from lora_core.ui.tabs.train.buttons import ran_out_of_memory, retry_changes
from tests.support.tiny import tiny_dataset
from tests.support.training import adapters_after, config_for, equal, run

SAMPLES: dict[str, object] = {"sample_count": 1, "sample_inference_steps": 1}
Do = Callable[[], object]


def once(when: Callable[[Event], bool], do: Do) -> Callable[[Job, Event], None]:
    """Do something at the first event for which `when` is true."""
    left = [do]

    def on_event(job: Job, event: Event) -> None:
        if left and when(event):
            left.pop()()

    return on_event


def sentence(job: Job, events: list[Event]) -> str:
    """What a failed job told; it has to end by saying what to do, on one line and without a traceback."""
    assert job.state == "failed" and isinstance(events[-1], Failed), events[-1]
    told = str(events[-1].message)
    assert "\n" not in told and "Traceback" not in told and told.endswith(".")
    return told


@pytest.fixture(scope="module")
def unharmed(tiny_sd1: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The adapters at the end of a run that nothing happens to."""
    out = tmp_path_factory.mktemp("unharmed")
    assert run(config_for(tiny_sd1, pictures, out))[0].error is None
    return adapters_after(out, 10)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for one small run."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "none", str(place)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("a small disk cannot be mounted here: it takes Linux and root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def fill(disk: Path) -> None:
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while file.write(b"\0" * 4096):
            pass


@pytest.mark.skipif(os.name == "nt" or shutil.which("mount") is None, reason="mounts a file system")
@pytest.mark.parametrize("how", ["full", "read-only"])
@pytest.mark.parametrize(
    ("when", "stands"),
    [(Validation(4, 0, 0, False), 0), (Saved(4, ""), 4), (Saved(10, ""), 10)],
    ids=["before a save", "before samples", "before the end"],
)
def test_a_disk_that_cannot_be_written_is_told_and_what_was_saved_goes_on(
    how: str, when: Validation | Saved, stands: int, tiny_sd1: Path, pictures: Path, small_disk: Path,
    unharmed: dict[str, torch.Tensor],
) -> None:  # fmt: skip
    config = config_for(tiny_sd1, pictures, small_disk / "out", **SAMPLES)

    def starve() -> None:
        if how == "full":
            fill(small_disk)
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

    def is_time(event: Event) -> bool:
        return isinstance(event, type(when)) and event.step == when.step

    job, events = run(config, on_event=once(is_time, starve))
    told = sentence(job, events)
    assert "disk is full" in told or "No space" in told or "cannot be written" in told or "Read-only" in told
    if when == Saved(4, ""):
        assert any(isinstance(e, Warned) and "left out" in str(e.message) for e in events)
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    (small_disk / "filler").unlink(missing_ok=True)
    assert [checkpoint.load(path).step for path in resumable(job.run.checkpoints)][-1:] == [stands] * bool(stands)
    again, _ = run(config, resume="latest" if stands else "")
    assert again.error is None
    assert equal(adapters_after(small_disk / "out", 10), unharmed)
    assert not [p for p in (small_disk / "out").rglob("*") if p.name.endswith(".tmp")]


@pytest.mark.parametrize("how", ["deleted", "renamed"])
def test_a_run_folder_that_goes_away_is_made_again_and_nothing_trained_is_lost(
    how: str, tiny_sd1: Path, pictures: Path, tmp_path: Path, unharmed: dict[str, torch.Tensor]
) -> None:
    out = tmp_path / "out"
    take: Do = (lambda: shutil.rmtree(out)) if how == "deleted" else (lambda: out.rename(tmp_path / "elsewhere"))
    config = config_for(tiny_sd1, pictures, out)
    job, events = run(config, on_event=once(lambda e: isinstance(e, Saved), take))
    assert job.error is None and isinstance(events[-1], Finished)
    assert any(isinstance(e, Warned) and "deleted or renamed" in str(e.message) for e in events)
    assert job.run.lora_file(config).is_file() and job.run.config() == config
    assert equal(adapters_after(out, 10), unharmed)
    if how == "renamed":
        assert checkpoint.latest(tmp_path / "elsewhere" / "checkpoints").step == 4


@pytest.mark.parametrize("how", ["deleted", "cut short", "another", "a folder"])
def test_a_picture_that_changes_while_it_is_prepared_is_told_or_taken_as_it_is(
    how: str, tiny_sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TREINO_CACHE", str(tmp_path / "cache"))
    data = tiny_dataset(tmp_path / "pictures")
    picture, other = data / "008.png", (data / "001.png").read_bytes()

    def change() -> None:
        if how in ("deleted", "a folder"):
            picture.unlink()
        if how == "a folder":
            picture.mkdir()
        if how in ("cut short", "another"):
            picture.write_bytes(other[:100] if how == "cut short" else other)

    begins = once(lambda e: isinstance(e, Phase) and e.name == "load", change)  # later it may have been read ahead
    job, events = run(config_for(tiny_sd1, data, tmp_path / "out", validation_split=0), on_event=begins)
    if how == "another":
        assert job.error is None
    else:
        assert isinstance(job.error, UserError) and "008.png" in sentence(job, events)


def test_a_clock_that_jumps_back_changes_nothing(
    tiny_sd1: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time
    jump = once(lambda e: isinstance(e, Saved), lambda: monkeypatch.setattr(time, "time", lambda: real() - 86400 * 400))
    job, _ = run(config_for(tiny_sd1, pictures, tmp_path, **SAMPLES), on_event=jump)
    assert job.error is None and [e.step for e, _ in job.run.read()[0] if isinstance(e, Step)] == list(range(1, 11))
    again, _ = run(config_for(tiny_sd1, pictures, tmp_path, max_train_steps=12), resume="latest")
    assert again.error is None and len([e for e, _ in again.run.read()[0] if isinstance(e, Step)]) == 12


MOMENTS: dict[str, Callable[[Event], bool]] = {
    "start": lambda e: isinstance(e, State),
    "cache": lambda e: isinstance(e, Phase) and e.name == "cache",
    "step": lambda e: isinstance(e, Step) and e.step >= 1,
    "sample": lambda e: isinstance(e, Phase) and e.name == "sample",
    "draw": lambda e: isinstance(e, Sample) and e.step == 4,
    "save": lambda e: isinstance(e, Saved),
}


@pytest.mark.parametrize(
    ("kind", "moment"),
    [*((torch.OutOfMemoryError, moment) for moment in MOMENTS), (MemoryError, "cache"), (MemoryError, "draw")],
)
def test_memory_that_runs_out_is_told_with_what_to_start_again_with(
    kind: type[Exception], moment: str, tiny_sd1: Path, pictures: Path, tmp_path: Path
) -> None:
    def starve() -> None:
        raise kind("no memory left")

    config = config_for(tiny_sd1, pictures, tmp_path, max_train_steps=4, **SAMPLES)
    job, events = run(config, on_event=once(MOMENTS[moment], starve))
    assert "ran out of memory" in sentence(job, events) and "--gradient_checkpointing" in sentence(job, events)
    assert bool(resumable(job.run.checkpoints)) == (moment in ("save", "draw"))
    if kind is MemoryError and moment in ("cache", "draw"):
        again, _ = run(config.replace(**after_failure(config)))
        assert again.error is None and again.state == "finished"


class Starved(Training):
    """The window's training, on a card with too little memory for these settings."""

    def _listen(self, event: Event) -> None:
        super()._listen(event)
        if isinstance(event, Step) and self.job and not self.job.config.gradient_checkpointing:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_the_button_that_starts_again_with_less_brings_the_run_to_its_end(
    tiny_sd1: Path, pictures: Path, tmp_path: Path
) -> None:
    training, config = Starved(), config_for(tiny_sd1, pictures, tmp_path, max_train_steps=4)

    def ended(wanted: TrainConfig) -> str:
        run = training.start(wanted)
        assert training.job is not None and training.job.wait(600)
        return training.state(run)

    assert ended(config) == "failed" and training.run is not None and ran_out_of_memory(training)
    assert ended(config.replace(**retry_changes(training.run))) == "finished"
    assert training.run.lora_file(config).is_file()
