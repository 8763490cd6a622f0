"""What a training tells the world: one kind of value per thing that happens, one line of JSON each.

The file `events.jsonl` in the run folder is the only truth about a run; terminal and window show the same objects.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass

from lora_core.messages import Message, from_json, plain, to_json


@dataclass(frozen=True)
class Phase:
    """Work other than training steps.

    `name` is one of download, load, cache, prior, compile, train, sample, save, captioner, describe, check.
    `done` and `total` count pictures or steps, in a download bytes.
    """

    name: str
    done: int = 0
    total: int = 0  # 0: not countable
    detail: str | Message = ""


@dataclass(frozen=True)
class Step:
    """An optimizer step: mean loss of its batches, learning rate, steps per second, seconds left (-1: unknown)."""

    step: int
    total: int
    loss: float
    learning_rate: float
    steps_per_second: float = 0.0
    eta_seconds: float = -1.0
    memory_bytes: int = 0  # allocated on the device at most so far; 0 on a CPU


@dataclass(frozen=True)
class Validation:
    """Loss at fixed noise and timesteps: on held-out pictures (`loss`) and on as many training pictures."""

    step: int
    loss: float
    train_loss: float
    best: bool


@dataclass(frozen=True)
class Sample:
    """A sample picture; `path` is relative to the run folder. Step 0 is the base model without the LoRA."""

    step: int
    path: str
    prompt: str
    seed: int


@dataclass(frozen=True)
class Saved:
    """A checkpoint is whole on disk; `path` is relative to the run folder."""

    step: int
    path: str


@dataclass(frozen=True)
class State:
    """The job's state as buttons show it: running, paused, stopping."""

    name: str


@dataclass(frozen=True)
class Warned:
    """A setting that was passed over or a condition worth knowing; each told once per run."""

    message: Message


@dataclass(frozen=True)
class Failed:
    """The run ended in an error; `message` says what to do, `traceback` is for reports."""

    message: Message
    traceback: str = ""


@dataclass(frozen=True)
class Finished:
    """The run ended with its LoRA file in place; `stopped` when the user ended it early."""

    step: int
    path: str
    best_step: int
    stopped: bool = False


Event = Phase | Step | Validation | Sample | Saved | State | Warned | Failed | Finished
Emit = Callable[[Event], None]
_KINDS: dict[str, type[Event]] = {
    kind.__name__: kind for kind in (Phase, Step, Validation, Sample, Saved, State, Warned, Failed, Finished)
}


def to_line(event: Event, at: float) -> str:
    """One line of JSON without a line break; `at` is Unix time in seconds.

    A message stands there in English, and its key and parameters in `said`.
    """
    fields = {"kind": type(event).__name__, "at": round(at, 3)}
    for field in dataclasses.fields(event):
        value = getattr(event, field.name)
        fields |= {field.name: str(value), "said": to_json(value)} if isinstance(value, Message) else {field.name: value}
    text = json.dumps(fields, ensure_ascii=False)
    # A file name of bytes that are no text holds lone surrogates: UTF-8 has none, but JSON has an escape for them.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def from_line(line: str) -> tuple[Event, float]:
    """The event and its time.

    Raises:
        ValueError: the line is cut, damaged or of an unknown kind.
    """
    try:
        fields = json.loads(line)
        kind, at = _KINDS[fields.pop("kind")], float(fields.pop("at"))
        said = fields.pop("said", None)
        if "message" in fields:
            fields["message"] = _message(said, str(fields["message"]))
        elif said is not None and "detail" in fields:
            fields["detail"] = _message(said, str(fields["detail"]))
        return kind(**fields), at
    except (KeyError, TypeError, AttributeError, RecursionError) as cause:
        raise ValueError(f"not an event: {line[:80]!r}") from cause


def _message(said: object, text: str) -> Message:
    """The message of an event; its text as it is where an older or a newer version wrote it."""
    try:
        return from_json(said)
    except ValueError:
        return plain(text)
