"""What a list shows of a run, read from its events in one quick pass: of thousands of steps only the last is parsed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lora_core.events import Event, Failed, Finished, Phase, Sample, State, Validation, from_line
from lora_core.messages import Message, from_json, to_json
from lora_core.runs.run import Run

_STEP = b'{"kind": "Step"'  # as `events.to_line` begins it


@dataclass(frozen=True)
class Summary:
    """What events.jsonl says. Times are Unix seconds, 0 where nothing is told; `end`: finished, stopped, failed or ""."""

    began_at: float = 0.0
    last_at: float = 0.0
    step: int = 0
    total: int = 0
    pictures: int = 0
    best_step: int = 0
    best_loss: float | None = None  # the lowest validation loss of a trained step
    end: str = ""
    failure: Message | None = None
    lora: str = ""  # file name of the finished LoRA
    sample: str = ""  # the first prompt's picture of the last step that has some, relative to the run folder
    sample_step: int = 0
    damaged: int = 0  # lines that are no events, but for a last one still being written

    def with_event(self, event: Event, at: float) -> Summary:
        """The summary after one more event."""
        known = replace(self, began_at=self.began_at or at, last_at=at)
        match event:
            case Validation() if event.step and (self.best_loss is None or event.loss < self.best_loss):
                return replace(known, best_step=event.step, best_loss=event.loss)
            case Phase() if event.name == "cache" and not event.detail and event.total:
                return replace(known, pictures=event.total)
            case Sample() if event.step and event.step != self.sample_step:
                return replace(known, sample=event.path, sample_step=event.step)
            case State():
                return replace(known, end="", failure=None)
            case Failed():
                return replace(known, end="failed", failure=event.message)
            case Finished():
                return replace(known, end="stopped" if event.stopped else "finished", lora=event.path)
        return known

    def to_json(self) -> dict[str, object]:
        """The summary in JSON's kinds; `from_json` is the way back."""
        return {**vars(self), "failure": self.failure and to_json(self.failure)}

    @classmethod
    def from_json(cls, values: Any) -> Summary:
        """The summary behind `to_json`. Raises TypeError or ValueError: it is none, or of another version."""
        return cls(**{**values, "failure": from_json(values["failure"]) if values["failure"] else None})


def summarise(events_file: Path) -> Summary:
    """The summary of a run's events; an empty one where there are none.

    Raises:
        OSError: the file is there and cannot be read.
    """
    try:
        lines = events_file.read_bytes().split(b"\n")
    except FileNotFoundError:
        return Summary()
    summary, damaged = Summary(), 0
    steps: deque[bytes] = deque(maxlen=2)
    for line in lines[:-1]:
        if line.startswith(_STEP):
            steps.append(line)
        elif line.strip():
            try:
                summary = summary.with_event(*from_line(line.decode("utf-8")))
            except ValueError:
                damaged += 1
    return replace(_with_steps(summary, steps), damaged=damaged)


def _with_steps(summary: Summary, steps: deque[bytes]) -> Summary:
    """The last step that is whole: a crash may have cut the very last one."""
    for line in reversed(steps):
        try:
            event, at = from_line(line.decode("utf-8"))
        except ValueError:
            continue
        step, total = int(getattr(event, "step", 0)), int(getattr(event, "total", 0))
        began_at = summary.began_at or at
        return replace(summary, step=step, total=total, began_at=began_at, last_at=max(summary.last_at, at))
    return summary


def best_step(told: Iterable[Event]) -> int | None:
    """The step of the lowest validation loss after the start; None when nothing was measured."""
    losses = {event.step: event.loss for event in told if isinstance(event, Validation) and event.step}
    return min(losses, key=lambda step: losses[step], default=None)


def outcome(run: Run) -> Iterator[Event]:
    """What a run told but its steps, of which there are too many to read for a list."""
    try:
        data = run.events_file.read_bytes()
    except OSError:  # begun and not yet telling, or not readable: then nothing is known
        return
    kinds = tuple(f'{{"kind": "{kind.__name__}"'.encode() for kind in (Validation, Finished, Sample))
    for line in data.split(b"\n"):
        if line.startswith(kinds):
            try:
                yield from_line(line.decode("utf-8"))[0]
            except ValueError:  # cut by a crash
                continue
