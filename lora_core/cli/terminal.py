"""What a terminal shows of a run: a progress bar on a screen, plain lines in a file or a pipe."""

from __future__ import annotations

import math
import os
import threading
import time
import unicodedata
from collections.abc import Callable, Mapping
from typing import TextIO

from lora_core.events import Event, Failed, Finished, Phase, Sample, Saved, State, Step, Validation, Warned
from lora_core.messages import Message
from lora_core.system.units import duration, step_rate

SMOOTHING = 0.98  # share of the past in the shown loss; raw diffusion loss is noise
REDRAW_S = 0.1
PLAIN_SHARE, PLAIN_S = 0.05, 30.0  # a plain line every so much of the run, or after so many seconds
BAR_MIN, BAR_MAX = 8, 40  # columns
PHASES = {
    "download": "Downloading",
    "load": "Loading the model",
    "cache": "Preparing the pictures",
    "prior": "Drawing prior pictures",
    "compile": "Compiling, which takes minutes for each picture size",
    "train": "Training",
    "sample": "Drawing samples",
    "save": "Saving",
    "captioner": "Loading the captioner",
    "describe": "Describing the pictures",
}


class Terminal:
    """An `Emit` sink that draws on `stream`; safe to call from several threads.

    A stream that breaks (closed window, `| head`) falls silent: a training is worth more than its display.
    """

    def __init__(
        self,
        stream: TextIO,
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream, self._clock, self._lock = stream, clock, threading.Lock()
        self._is_broken = False
        screen = stream.isatty()
        self._has_bar = screen and environ.get("TERM") != "dumb"
        # The old Windows console prints colour codes as text; the newer Terminal sets WT_SESSION.
        knows_colour = os.name != "nt" or "WT_SESSION" in environ
        self._has_colour = self._has_bar and knows_colour and not environ.get("NO_COLOR")
        self._glyphs = _glyphs(stream.encoding or "ascii")
        self._drawn = 0  # columns of the bar now on the screen
        self._drawn_at = -math.inf
        self._told_at = self._told_phase_at = -math.inf  # the last plain lines about progress
        self._told_mark = 0
        self._phase = ""
        self._state = "running"
        self._loss, self._weight = 0.0, 0.0

    def __call__(self, event: Event) -> None:
        with self._lock:
            match event:
                case Phase():
                    self._show_phase(event)
                case Step():
                    self._show_step(event)
                case Validation():
                    best = ", the best so far" if event.best else ""
                    losses = f"validation loss {event.loss:.4f}, training pictures {event.train_loss:.4f}"
                    self._line(f"step {event.step}: {losses}{best}")
                case Sample():
                    self._line(f"step {event.step}: sample {event.path}  {event.prompt}")
                case Saved():
                    self._line(f"step {event.step}: saved {event.path}")
                case State():
                    self._show_state(event)
                case Warned():
                    self._line(f"Warning: {event.message}", colour="33")
                case Failed() | Finished():
                    self._end_bar()

    def say(self, told: str | Message = "") -> None:
        """Print lines above the bar."""
        with self._lock:
            for line in str(told).split("\n"):
                self._line(line)

    def close(self) -> None:
        """Leave the bar as it is and go to a new line."""
        with self._lock:
            self._end_bar()

    def _show_phase(self, event: Phase) -> None:
        text = PHASES.get(event.name, event.name)
        counted = f" {event.done}/{event.total}" if event.total else ""
        if event.total and event.name == "download":  # counted in bytes
            counted = f" {event.done / 1e6:.0f} of {event.total / 1e6:.0f} MB"
        detail = f": {event.detail}" if event.detail else ""
        is_new, self._phase = event.name != self._phase, event.name
        if self._has_bar:
            if event.name != "train":  # the first step draws the bar
                self._draw(f"{text}{counted}{detail}", at_once=is_new)
        elif is_new or self._clock() - self._told_phase_at >= PLAIN_S:
            self._told_phase_at = self._clock()
            self._line(f"{text}{counted}{detail}")

    def _show_step(self, event: Step) -> None:
        self._phase = "train"
        if math.isfinite(event.loss):
            self._loss = SMOOTHING * self._loss + (1 - SMOOTHING) * event.loss
            self._weight = SMOOTHING * self._weight + 1 - SMOOTHING
        loss = self._loss / self._weight if self._weight else math.nan
        numbers = [
            f"{event.step}/{event.total}",
            f"loss {loss:.4f}",
            f"ETA {duration(event.eta_seconds)}",
            step_rate(event.steps_per_second),
        ]
        if event.memory_bytes:
            numbers.append(f"{event.memory_bytes / 2**30:.1f} GiB")
        share, last = event.step / max(event.total, 1), event.step >= event.total
        if self._has_bar:
            self._draw(self._bar(share, numbers), at_once=last)
            return
        mark = int(share / PLAIN_SHARE + 1e-9)
        if mark > self._told_mark or last or self._clock() - self._told_at >= PLAIN_S:
            self._told_mark, self._told_at = mark, self._clock()
            self._line("step " + "  ".join(numbers))

    def _show_state(self, event: State) -> None:
        if event.name != self._state:
            self._state = event.name
            self._line({"running": "Training goes on.", "paused": "Paused."}.get(event.name, f"{event.name}..."))

    def _bar(self, share: float, numbers: list[str]) -> str:
        """The widest form that fits: with a bar, without it, with fewer numbers."""
        width = self._width()
        while len(numbers) > 2 and len("  ".join(numbers)) + 6 > width:
            numbers = numbers[:-1]
        text = f"{math.floor(share * 100):3d}%  " + "  ".join(numbers)
        room = min(width - len(text) - 1, BAR_MAX)
        if room < BAR_MIN:
            return text
        full, empty = self._glyphs
        filled = min(math.floor(share * room), room)
        return f"{text[:4]} {full * filled}{empty * (room - filled)}{text[4:]}"

    def _draw(self, text: str, *, at_once: bool) -> None:
        now = self._clock()
        if not at_once and now - self._drawn_at < REDRAW_S:
            return
        self._drawn_at = now
        text = _fit(_clean(text), self._width())
        columns = _columns(text)
        # Spaces erase the rest of the older bar: they work on every terminal, an escape code does not.
        self._write("\r" + text + " " * max(self._drawn - columns, 0))
        self._drawn = columns

    def _line(self, text: str, colour: str = "") -> None:
        self._erase()
        text = _clean(text)
        self._write((f"\x1b[{colour}m{text}\x1b[0m" if colour and self._has_colour else text) + "\n")

    def _erase(self) -> None:
        if self._drawn:
            self._write("\r" + " " * self._drawn + "\r")
            self._drawn, self._drawn_at = 0, -math.inf  # the bar comes back with the next event

    def _end_bar(self) -> None:
        if self._phase != "train":
            self._erase()  # of a phase that is over nobody wants to read
        elif self._drawn:
            self._write("\n")
            self._drawn = 0

    def _write(self, text: str) -> None:
        if self._is_broken:
            return
        try:
            encoding = self._stream.encoding or "ascii"
            self._stream.write(text.encode(encoding, "replace").decode(encoding))
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: the stream is closed
            self._is_broken = True

    def _width(self) -> int:
        """Columns to draw in; the last one stays free, for Windows goes to a new line when it is used."""
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError):
            columns = 0
        return max((columns or 80) - 1, 1)


def _glyphs(encoding: str) -> tuple[str, str]:
    try:
        "█░".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return "#", "."
    return "█", "░"


def _clean(text: str) -> str:
    """File names and captions may hold line breaks and escape codes; a terminal must not obey them."""
    return "".join(c if c.isprintable() else " " for c in text)


def _columns(text: str) -> int:
    """Columns on a screen: wide East Asian characters take two, combining marks none."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in text)


def _fit(text: str, width: int) -> str:
    while _columns(text) > width:
        text = text[:-1]
    return text
