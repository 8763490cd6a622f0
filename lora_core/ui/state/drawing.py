"""The drawing behind the Test tab: one job at a time in a thread of its own, seen by every page as it is."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_core.errors import UserError
from lora_core.events import Event, Phase
from lora_core.messages import Message
from lora_core.sampling.gallery import Drawn, Gallery
from lora_core.sampling.grid import Grid, check
from lora_core.sampling.params import GenerationParams
from lora_core.system import windows
from lora_core.ui.state.background import has_ended, in_background
from lora_core.ui.state.training import Training

if TYPE_CHECKING:
    from lora_core.sampling.pipeline import Pipeline

IDLE, WAITING, LOADING, DOWNLOADING, DRAWING = "idle", "waiting", "loading", "downloading", "drawing"
DONE, CANCELLED, FAILED = "done", "cancelled", "failed"
BUSY = (WAITING, LOADING, DOWNLOADING, DRAWING)
_LOOK_EVERY_S = 0.1


class _Cancelled(Exception):
    """Somebody pressed Cancel."""


@dataclass(frozen=True)
class Cell:
    """A picture that was asked for, and the one that was drawn."""

    params: GenerationParams
    drawn: Drawn | None = None


@dataclass(frozen=True)
class View:
    """All that a page shows of the drawing; never changed, only replaced. `serial` grows with every change.

    cells: without and with the LoRA, or those of the grid by its `places`. step: denoising steps of the picture at
    work. done_bytes: of a download. seconds_left: -1 while unknown. pictures: grows with every new picture.
    """

    serial: int = 0
    phase: str = IDLE
    cells: tuple[Cell, ...] = ()
    grid: Grid | None = None
    sheet: Drawn | None = None
    step: int = 0
    steps: int = 0
    done_bytes: int = 0
    total_bytes: int = 0
    seconds_left: float = -1.0
    holds_training: bool = False
    loaded: str = ""
    error: Message | None = None
    pictures: int = 0

    @property
    def is_busy(self) -> bool:
        return self.phase in BUSY

    @property
    def done(self) -> int:
        return sum(cell.drawn is not None for cell in self.cells)

    @property
    def fraction(self) -> float:
        """0 to 1."""
        if self.phase == DOWNLOADING:
            return self.done_bytes / max(self.total_bytes, 1)
        return min(1.0, (self.done + (self.step / self.steps if self.steps else 0)) / max(len(self.cells), 1))


class PreviewWorker:
    """Draws what it is asked for with a `Pipeline` that stays loaded.

    allow: told each folder pictures come from. note_crash: told each error nobody foresaw.
    """

    def __init__(
        self,
        gallery: Gallery,
        training: Training,
        allow: Callable[[Path], object],
        note_crash: Callable[[str, Exception], object],
    ) -> None:
        self.gallery, self.training, self.allow, self.note_crash = gallery, training, allow, note_crash
        self.view = View()
        self._pipeline: Pipeline | None = None
        self._working: Future[None] | None = None
        self._cancel = threading.Event()
        self._lock = threading.RLock()  # of the view, and of what stands between pressing and the thread
        self._base_pictures: dict[
            GenerationParams, Drawn
        ] = {}  # drawn by this process, so they are what would be drawn again
        self._drawing_s, self._drawn_steps, self._stepped_at = 0.0, 0, 0.0

    # --- what a person presses --------------------------------------------------------------------------------

    def compare(self, params: GenerationParams, pause_training: bool = False) -> None:
        """Draw a picture without and with the LoRA; one picture when there is no LoRA. Raises UserError when busy."""
        pair = [params.without_lora(), params] if params.has_lora else [params.without_lora()]
        self._start(pair, None, params.lora, pause_training)

    def fill(self, grid: Grid, pause_training: bool = False) -> None:
        """Draw a grid, cell by cell. Raises UserError when busy or when it is too large."""
        cells = [check(grid).params(place) for place in grid.places()]
        self._start(cells, grid, cells[0].lora, pause_training)

    def cancel(self) -> None:
        self._cancel.set()

    def free(self) -> None:
        """Let the loaded model go. Raises UserError while it draws."""
        with self._lock:
            if self.view.is_busy:
                raise UserError("sampling.drawing")
            if self._pipeline is not None:
                self._pipeline.free()
            self._change(loaded="")

    def relieve(self) -> None:
        """Let the model go when a training needs the card it is on."""
        with self._lock:
            idle = not self.view.is_busy and self._pipeline is not None and self._pipeline.is_on_card
        if idle and self.training.busy():
            with suppress(UserError):  # somebody began to draw just now
                self.free()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end of the drawing; True when there is none."""
        return has_ended(self._working, timeout_s)

    def recent(self) -> list[Drawn]:
        """The last pictures, newest first; their folders are allowed."""
        found = self.gallery.recent()
        for folder in {drawn.path.parent for drawn in found}:
            self.allow(folder)
        return found

    # --- the thread -------------------------------------------------------------------------------------------

    def _start(self, cells: Sequence[GenerationParams], grid: Grid | None, lora: str, pause_training: bool) -> None:
        with self._lock:
            if self.view.is_busy:
                raise UserError("sampling.busy")
            self._cancel.clear()
            self._change(
                phase=LOADING, cells=tuple(map(Cell, cells)), grid=grid, sheet=None, step=0, steps=0, seconds_left=-1.0,
                error=None, done_bytes=0, total_bytes=0,
            )  # fmt: skip
            beside = Path(lora) if lora else None
            self._working = in_background(partial(self._work, beside, pause_training), "test pictures")

    def _work(self, beside: Path | None, pause_training: bool) -> None:
        end: dict[str, Any] = {"phase": DONE}
        try:
            with self._training_paused(pause_training):
                try:
                    self._draw_all(beside)
                finally:
                    self._keep_sheet(beside)
        except _Cancelled:
            end = {"phase": CANCELLED}
        except Exception as error:  # noqa: BLE001 - the one place where a drawing's errors end: told, never lost
            end = {"phase": FAILED, "error": _explain(error)}
            if end["error"].key == "sampling.unforeseen":
                self.note_crash("drawing test pictures", error)
        loaded = self._pipeline.base if self._pipeline else ""
        self._change(**end, loaded=loaded, step=0, steps=0, seconds_left=-1.0, holds_training=False)

    @contextmanager
    def _training_paused(self, wanted: bool) -> Iterator[None]:
        """The training stands still within the block, and goes on after it however the block ends."""
        if not wanted or not self.training.is_in_the_way():
            yield
            return
        self.training.pause()
        self._change(phase=WAITING, holds_training=True)
        try:
            while self.training.is_in_the_way():
                if self._cancel.wait(_LOOK_EVERY_S):
                    raise _Cancelled
            yield
        finally:
            if self._pipeline is not None and self._pipeline.is_on_card:
                self._pipeline.free()
            with suppress(UserError):  # the training ended meanwhile
                self.training.unpause()

    def _draw_all(self, beside: Path | None) -> None:
        from lora_core.sampling.pipeline import Pipeline  # brings torch

        self._pipeline = self._pipeline or Pipeline()
        self._drawing_s, self._drawn_steps = 0.0, 0
        for index, cell in enumerate(self.view.cells):
            self._give_up_if_asked()
            if not (drawn := self._known(cell.params)):
                now = cell.params
                self._pipeline.open(now.base, self._told, now.vae, now.prediction_type, now.zero_terminal_snr)
                self._change(phase=DRAWING, step=0, steps=0, loaded=cell.params.base)
                self._stepped_at = time.monotonic()
                picture = self._pipeline.draw(cell.params, self._stepped)
                drawn = self.gallery.keep(picture, cell.params, beside)
                self.allow(drawn.path.parent)
                if not cell.params.has_lora:
                    self._base_pictures[cell.params.without_lora()] = drawn
            cells = (*self.view.cells[:index], Cell(cell.params, drawn), *self.view.cells[index + 1 :])
            self._change(cells=cells, step=0, pictures=self.view.pictures + 1)

    def _known(self, params: GenerationParams) -> Drawn | None:
        """The base model's picture, when it was drawn before: the LoRA and its weight change nothing of it."""
        drawn = None if params.has_lora else self._base_pictures.get(params.without_lora())
        return drawn if drawn and drawn.path.is_file() else None

    def _keep_sheet(self, beside: Path | None) -> None:
        """Put the cells that were drawn into one picture; also of a grid that was cancelled."""
        from PIL import Image

        view = self.view
        if view.grid is None or not view.done:
            return
        pictures = {}
        for place, cell in zip(view.grid.places(), view.cells, strict=True):
            if cell.drawn:
                with Image.open(cell.drawn.path) as opened:
                    pictures[place] = opened.convert("RGB")
        kept = self.gallery.keep(view.grid.sheet(pictures), view.cells[0].params, beside, view.grid.parameters())
        self._change(sheet=kept, pictures=view.pictures + 1)

    def _told(self, event: Event) -> None:
        """While a model loads."""
        self._give_up_if_asked()
        if isinstance(event, Phase):
            is_download = event.name == "download"
            phase = DOWNLOADING if is_download else LOADING
            done, total = (event.done, event.total) if is_download else (0, 0)
            self._change(phase=phase, done_bytes=done, total_bytes=total)

    def _stepped(self, done: int, total: int) -> None:
        self._give_up_if_asked()
        now = time.monotonic()
        self._drawing_s, self._stepped_at = self._drawing_s + now - self._stepped_at, now
        self._drawn_steps += 1
        left = (len(self.view.cells) - self.view.done) * total - done
        self._change(step=done, steps=total, seconds_left=left * self._drawing_s / self._drawn_steps)

    def _give_up_if_asked(self) -> None:
        if self._cancel.is_set():
            raise _Cancelled

    def _change(self, **values: Any) -> None:
        with self._lock:
            self.view = dataclasses.replace(self.view, serial=self.view.serial + 1, **values)


def _explain(error: Exception) -> Message:
    """What to say of an error; errors nobody foresaw are "sampling.unforeseen"."""
    from lora_core.models.device import is_full_card, is_full_computer, is_lost_card, why_lost  # brings torch

    if isinstance(error, UserError):
        return error.message
    if is_full_card(error):
        return Message("sampling.card_full")
    if is_lost_card(error):
        return Message("sampling.card_lost", why=why_lost(error))
    if failure := windows.page_file_failure(error):
        return failure
    if is_full_computer(error):
        return Message("sampling.computer_full")
    if isinstance(error, OSError):
        why = error.strerror or error
        if not error.filename:
            return Message("sampling.no_file_unusable", why=why)
        return Message("sampling.file_unusable", why=why, file=error.filename)
    return Message("sampling.unforeseen", error=f"{type(error).__name__}: {error}")
