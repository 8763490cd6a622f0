"""The one training of this process, and what is known of it and of other runs."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lora_core.config import TrainConfig
from lora_core.errors import UserError
from lora_core.events import Event, Failed, Finished
from lora_core.runs import lock
from lora_core.runs.history import History
from lora_core.runs.run import Run

if TYPE_CHECKING:
    from lora_core.training.job import Job

MOST_HISTORIES = 60
LIVE = ("running", "pausing", "paused", "stopping")


class Training:
    """Starts and steers the one job there can be. What it says of a run is what the live thread and the files say.

    `job` is the last one started, ended or not; `run` is the run the window shows: the job's, or one that was opened.
    make_way: called before a start; ends what else computes, or raises UserError.
    """

    def __init__(self, make_way: Callable[[], None] = lambda: None) -> None:
        self._make_way = make_way
        self.job: Job | None = None
        self.run: Run | None = None
        self.serial = 0  # grows with every start and every opened run, so that pages turn to it
        self._end: Failed | Finished | None = None  # also of a job that ended before it had a folder
        self._histories: OrderedDict[Path, History] = OrderedDict()
        self._lock = threading.Lock()

    # --- the job ----------------------------------------------------------------------------------------------

    def busy(self) -> bool:
        """Whether a job has a live thread."""
        return self.job is not None and not self.job.wait(0)

    def is_in_the_way(self) -> bool:
        """Whether a training takes steps: one that is paused is in nobody's way."""
        return self.job is not None and self.busy() and self.state(self.job.run) != "paused"

    def state(self, run: Run | None = None) -> str:
        """running, pausing, paused, stopping, finished, stopped, failed, cut (ended without a word), elsewhere (another
        program trains it) or idle (no run).

        Of `run`, or of the run the window shows.
        """
        run = run or self.run
        if run is None:
            return "idle"
        if self.is_job_of(run):
            assert self.job is not None
            if self.busy():
                return _live_state(self.job)
            if isinstance(self._end, Failed):
                return "failed"
        return self.history(run).ended or unended(run)

    def is_job_of(self, run: Run) -> bool:
        """Whether the job of this process writes to the folder of `run`."""
        return self.job is not None and _key(self.job.run) == _key(run)

    def failure(self) -> Failed | None:
        """How the run that the window shows failed, if it did."""
        if self.run is None or self.state() != "failed":
            return None
        return self._end if self.is_job_of(self.run) and isinstance(self._end, Failed) else self._told_failure()

    def start(self, config: TrainConfig, resume: str = "") -> Run:
        """Start training in `config.output_dir`; see `Job` for `resume`.

        Raises:
            UserError: a training is going on already.
        """
        from lora_core.training.job import Job  # brings torch

        self._make_way()
        with self._lock:
            if self.busy():
                raise UserError("ui.training_busy")
            self._end = None
            self.job = Job(config, resume, [self._listen])
            self.run = self.job.run
            self.serial += 1
            self.job.start()
            return self.run

    def pause(self) -> None:
        self._live().controls.pause()

    def unpause(self) -> None:
        self._live().controls.unpause()

    def stop(self) -> None:
        """Finish the step, save, write the LoRA and end."""
        self._live().controls.stop()

    def sample_now(self) -> None:
        self._live().controls.sample_now()

    def save_now(self) -> None:
        self._live().controls.save_now()

    def show(self, run: Run) -> None:
        """Let the window show a run that was trained before."""
        if not self.busy():
            self.run = run
            self.serial += 1

    # --- what is known of runs --------------------------------------------------------------------------------

    def history(self, run: Run) -> History:
        """The history of a run, up to date. Every page asks for the same one, so its events are read once."""
        with self._lock:
            known = self._histories.setdefault(_key(run), History(run))
            self._histories.move_to_end(_key(run))
            if len(self._histories) > MOST_HISTORIES:
                self._histories.popitem(last=False)
        known.update()
        return known

    def _live(self) -> Job:
        if not self.busy():
            raise UserError("ui.no_training")
        assert self.job is not None
        return self.job

    def _listen(self, event: Event) -> None:
        if isinstance(event, Failed | Finished):
            self._end = event

    def _told_failure(self) -> Failed | None:
        return self.history(self.run).facts.failed if self.run else None


def unended(run: Run) -> str:
    """The state of a run that does not tell of its end, and that this process does not train."""
    return "elsewhere" if lock.is_held_elsewhere(run.folder) else "cut"


def _live_state(job: Job) -> str:
    """What the buttons of a live job show: a press counts at once, though the thread sees it after its step."""
    if job.controls.asked == "stop":
        return "stopping"
    if job.controls.asked == "pause":
        return "paused" if job.state == "paused" else "pausing"
    return "running"


def _key(run: Run) -> Path:
    return run.folder.absolute()
