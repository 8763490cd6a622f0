"""What is known of a run, read from its events as they come: bounded lines for plots, and the latest of everything."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from lora_core.events import Event, Failed, Finished, Phase, Sample, Saved, State, Step, Validation, Warned
from lora_core.messages import Message
from lora_core.runs.curve import Curve, Smoothing, span_for
from lora_core.runs.run import Run

MOST_TOLD = 200  # warnings, saves and the like that are kept; the newest ones


@dataclass
class _Facts:
    """All that events say; made anew when a run starts again in its folder."""

    raw: Curve = field(default_factory=lambda: Curve(keeps_ends=True))
    smoothed: Curve = field(default_factory=Curve)
    held_out: Curve = field(default_factory=Curve)  # validation loss on held-out pictures
    known: Curve = field(default_factory=Curve)  # validation loss on training pictures
    smoothing: Smoothing | None = None
    step: Step | None = None
    stepped_at: float = 0.0  # Unix seconds
    phase: Phase | None = None  # what goes on beside steps; None while steps are trained
    told: str = ""  # the last State
    best: Validation | None = None
    validation: Validation | None = None
    saved: list[Saved] = field(default_factory=list)
    samples: dict[int, list[Sample]] = field(default_factory=dict)
    warnings: list[Message] = field(default_factory=list)
    failed: Failed | None = None
    finished: Finished | None = None
    began_at: float = 0.0
    last_at: float = 0.0

    def take(self, event: Event, at: float) -> None:
        self.began_at, self.last_at = self.began_at or at, at
        match event:
            case Step():
                self._take_step(event, at)
            case Validation():
                self.held_out.add(event.step, event.loss)
                self.known.add(event.step, event.train_loss)
                self.validation = event
                self.best = event if event.best else self.best
            case Phase():
                self.phase = None if event.name == "train" or _is_over(event) else event
            case Sample():
                self.samples.setdefault(event.step, []).append(event)
                self.phase = Phase("sample", len(self.samples[event.step]), self.phase.total) if self.phase else None
            case Saved():
                self.saved = [*self.saved, event][-MOST_TOLD:]
            case Warned():
                self.warnings = [*self.warnings, event.message][-MOST_TOLD:]
            case State():
                self.told = event.name
                self.failed = self.finished = None  # it goes on
            case Failed():
                self.failed = event
            case Finished():
                self.finished = event

    def _take_step(self, event: Step, at: float) -> None:
        self.smoothing = self.smoothing or Smoothing(span_for(event.total))
        self.raw.add(event.step, event.loss)
        self.smoothed.add(event.step, self.smoothing.add(event.loss))
        self.step, self.stepped_at, self.phase = event, at, None


def _is_over(phase: Phase) -> bool:
    """Whether the last sample is drawn: what comes next are steps, or a pause."""
    return phase.name == "sample" and 0 < phase.total <= phase.done


class History:
    """One run, followed. `update` reads what is new; `version` grows with every change, so that pages can wait for it.

    Shared by all pages and safe to use from several threads. `facts` is replaced whole when the run starts anew.
    """

    def __init__(self, run: Run):
        self.run = run
        self.version = 0
        self.facts = _Facts()
        self._offset = 0
        self._file_id: tuple[int, int] | None = None
        self._lock = threading.Lock()

    def update(self) -> int:
        """Read the events written since the last time; returns the version."""
        with self._lock:
            if (file_id := self._identify()) != self._file_id:
                self._restart(file_id)
            events, offset = self.run.read(self._offset)
            if offset < self._offset:  # the same file, written anew: read it from its start
                self._restart(file_id)
                events, offset = self.run.read()
            self._offset = offset
            for event, at in events:
                self.facts.take(event, at)
            self.version += bool(events)
            return self.version

    def _identify(self) -> tuple[int, int] | None:
        """Which file it is: a run that starts anew or goes on writes its events to another one."""
        try:
            stat = self.run.events_file.stat()
        except OSError:
            return None
        return stat.st_dev, stat.st_ino

    def _restart(self, file_id: tuple[int, int] | None) -> None:
        if self._file_id is not None:
            self.version += 1
        self._file_id, self._offset, self.facts = file_id, 0, _Facts()

    # --- what pages ask ---------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.facts.step.step if self.facts.step else 0

    @property
    def total(self) -> int:
        return self.facts.step.total if self.facts.step else 0

    @property
    def losses(self) -> tuple[Curve, Curve]:
        """Training loss: smoothed, raw."""
        return self.facts.smoothed, self.facts.raw

    @property
    def validation(self) -> tuple[Curve, Curve]:
        """Validation loss: on held-out pictures, on training pictures."""
        return self.facts.held_out, self.facts.known

    @property
    def has_held_out(self) -> bool:
        """Whether the two validation losses are of different pictures; a run without held-out ones measures one."""
        return self.facts.held_out.points() != self.facts.known.points()

    @property
    def saved(self) -> list[Saved]:
        return self.facts.saved

    @property
    def best(self) -> Validation | None:
        """The lowest validation loss of a trained step, so far."""
        return self.facts.best if self.facts.best and self.facts.best.step > 0 else None

    @property
    def samples(self) -> dict[int, list[Sample]]:
        """Sample pictures by step; step 0 is the base model."""
        return self.facts.samples

    @property
    def ended(self) -> str:
        """How the run ended by its own account: finished, stopped, failed, or "" when it does not say."""
        if self.facts.failed:
            return "failed"
        if end := self.facts.finished:
            return "stopped" if end.stopped else "finished"
        return ""

    def eta_seconds(self, now: float | None = None) -> float:
        """Seconds left, counted down since the last step while steps are trained; -1 when nobody can know yet."""
        last = self.facts.step
        if not last or last.eta_seconds < 0 or last.step < min(3, last.total):
            return -1.0
        if self.facts.phase or self.facts.told == "paused":
            return last.eta_seconds
        since = (time.time() if now is None else now) - self.facts.stepped_at
        return max(0.0, last.eta_seconds - max(0.0, since))
