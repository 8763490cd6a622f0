"""Captions that a captioner proposes, in a thread of its own; nothing is written until somebody takes them."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lora_core.captioners import to_describe
from lora_core.dataset import add_trigger
from lora_core.errors import UserError
from lora_core.events import Event, Phase, Warned
from lora_core.messages import Message
from lora_core.ui.shared.texts import Texts
from lora_core.ui.state.background import has_ended, in_background
from lora_core.ui.state.open_dataset import THUMBNAIL, OpenDataset
from lora_core.ui.state.training import Training

IDLE, LOADING, DOWNLOADING, DESCRIBING = "idle", "loading", "downloading", "describing"
DONE, CANCELLED, FAILED = "done", "cancelled", "failed"
BUSY = (LOADING, DOWNLOADING, DESCRIBING)


class _Cancelled(Exception):
    """Somebody pressed Cancel, or opened another folder."""


@dataclass(frozen=True)
class CaptioningState:
    """All that pages show of it; never changed, only replaced. `job` grows with every start.

    done, total: pictures, or bytes while `phase` is downloading. seconds_left: -1 while unknown. rows: picture and
    proposed caption, as they come.
    """

    job: int = 0
    phase: str = IDLE
    folder: Path | None = None
    done: int = 0
    total: int = 0
    seconds_left: float = -1.0
    rows: tuple[tuple[Path, str], ...] = ()
    notes: tuple[Message, ...] = ()
    error: Message | None = None

    @property
    def is_busy(self) -> bool:
        return self.phase in BUSY


@dataclass(frozen=True)
class CaptioningRequest:
    """What was asked for. `threshold`: how sure a tagger must be, 0 to 1; `trigger`: put in front, "" for nothing."""

    captioner: str
    pictures: tuple[Path, ...]
    threshold: float
    trigger: str = ""


class Describer:
    """One for all pages. `note_crash` is told each error nobody foresaw."""

    def __init__(self, dataset: OpenDataset, training: Training, note_crash: Callable[[str, Exception], object]) -> None:
        self.dataset, self.training, self.note_crash = dataset, training, note_crash
        self.state = CaptioningState()
        self._cancel = threading.Event()
        self._lock = threading.Lock()
        self._working: Future[None] | None = None

    # --- what a person presses --------------------------------------------------------------------------------

    def start(self, request: CaptioningRequest) -> None:
        """Propose a caption for each picture; of those that share a caption file, for the first.

        Raises:
            UserError: there is none, it goes on already, or a training is in the way.
        """
        folder = self.dataset.opened().folder
        pictures = to_describe(dict.fromkeys(request.pictures, ""), replace=True)
        request = dataclasses.replace(request, pictures=tuple(pictures))
        with self._lock:
            if self.state.is_busy:
                raise UserError("ui.describing")
            if not request.pictures:
                raise UserError("ui.nothing_to_describe")
            if self.training.is_in_the_way():
                raise UserError("ui.describe_beside")
            self._cancel = threading.Event()
            self.state = CaptioningState(self.state.job + 1, LOADING, folder, total=len(request.pictures))
            self._working = in_background(partial(self._work, request, self._cancel), "captions")

    def cancel(self) -> None:
        """Stop after the picture at hand; what was proposed by then stays."""
        self._cancel.set()

    def discard(self) -> None:
        """Forget what was proposed."""
        self.cancel()
        with self._lock:
            self.state = CaptioningState(self.state.job + 1)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end of the work; True when there is none."""
        return has_ended(self._working, timeout_s)

    def chosen(self, pictures: Collection[Path]) -> dict[Path, str]:
        """The captions proposed for these."""
        return {path: caption for path, caption in self.state.rows if caption and path in pictures}

    # --- what a page shows ------------------------------------------------------------------------------------

    def update(self, text: Texts, url: Callable[[Path, int], str], job: int, rows: int) -> dict[str, Any]:
        """How it stands, as JSON, and the rows that a page with `rows` rows of `job` has not seen."""
        state = self.state
        if state.folder is not None and state.folder != self.dataset.folder:
            self.discard()
            state = self.state
        new = state.rows[rows if job == state.job else 0 :]
        captions = self.dataset.editor.captions if self.dataset.editor and new else {}
        return {
            "job": state.job, "phase": state.phase, "done": state.done, "total": state.total,
            "left": round(state.seconds_left),
            "error": text.say(state.error) if state.error else "",
            "notes": [text.say(note) for note in state.notes],
            "rows": [[self.dataset.name(p), url(p, THUMBNAIL), captions.get(p, ""), caption] for p, caption in new],
        }  # fmt: skip

    # --- the thread -------------------------------------------------------------------------------------------

    def _work(self, request: CaptioningRequest, cancel: threading.Event) -> None:
        end: dict[str, Any] = {"phase": DONE}
        try:
            self._describe(request, cancel)
        except _Cancelled:
            end = {"phase": CANCELLED}
        except UserError as error:
            end = {"phase": FAILED, "error": error.message}
        except Exception as error:  # noqa: BLE001 - the one place where its errors end: told, never lost
            end = {"phase": FAILED, "error": Message("ui.unforeseen", error=f"{type(error).__name__}: {error}")}
            self.note_crash("describing pictures", error)
        self._change(cancel, **end, seconds_left=-1.0)

    def _describe(self, request: CaptioningRequest, cancel: threading.Event) -> None:
        from lora_core.captioners import describe  # brings torch

        rows: tuple[tuple[Path, str], ...] = ()
        began, total = 0.0, len(request.pictures)
        for path, caption in describe(request.captioner, request.pictures, partial(self._tell, cancel), request.threshold):
            proposed = add_trigger({path: caption}, request.trigger) if request.trigger else {}
            rows = (*rows, (path, proposed.get(path, caption)))
            began = began or time.monotonic()  # the first one warms up
            a_picture = (time.monotonic() - began) / max(1, len(rows) - 1)
            left = a_picture * (total - len(rows)) if len(rows) > 1 else -1.0
            self._change(cancel, seconds_left=left, rows=rows)

    def _tell(self, cancel: threading.Event, event: Event) -> None:
        if cancel.is_set():
            raise _Cancelled
        if isinstance(event, Warned):
            self._change(cancel, notes=(*self.state.notes, event.message))
        elif isinstance(event, Phase):
            phase = {"download": DOWNLOADING, "describe": DESCRIBING}.get(event.name, LOADING)
            self._change(cancel, phase=phase, done=event.done, total=event.total)

    def _change(self, cancel: threading.Event, **values: Any) -> None:
        """Unless it was discarded meanwhile, or another one began."""
        with self._lock:
            if cancel is self._cancel and self.state.phase != IDLE:
                self.state = dataclasses.replace(self.state, **values)
