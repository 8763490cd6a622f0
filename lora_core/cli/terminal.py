"""What a terminal shows of a run: a progress bar on a screen, plain lines in a file or a pipe. Rich draws the bar."""

from __future__ import annotations

import io
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TextIO, cast

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lora_core.events import Event, Failed, Finished, Phase, Sample, Saved, State, Step, Validation, Warned
from lora_core.messages import Message
from lora_core.system.units import duration, step_rate

SMOOTHING = 0.98  # share of the past in the shown loss; raw diffusion loss is noise
REDRAW_S = 0.1
PLAIN_SHARE, PLAIN_S = 0.05, 30.0  # a plain line every so much of the run, or after so many seconds
BAR_MIN, BAR_MAX = 8, 40  # columns
PHASES = ("download", "load", "cache", "prior", "compile", "train", "sample", "save", "captioner", "describe", "check")


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
        self._clock, self._lock = clock, threading.RLock()
        self._has_bar = stream.isatty() and environ.get("TERM") != "dumb"
        self._console = Console(
            file=cast(TextIO, _Silencing(stream)), force_terminal=self._has_bar, force_jupyter=False, soft_wrap=True,
            highlight=False, markup=False, emoji=False, _environ=environ,
        )  # fmt: skip
        self._live: Live | None = None
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
                case Validation(step, loss, train_loss, best):
                    key = "cli.validation_best" if best else "cli.validation"
                    self._line(Message(key, step=step, loss=loss, train_loss=train_loss))
                case Sample(step, path, prompt):
                    self._line(Message("cli.sample", step=step, path=path, prompt=prompt))
                case Saved(step, path):
                    self._line(Message("cli.saved", step=step, path=path))
                case State():
                    self._show_state(event)
                case Warned(message):
                    self._line(Message("cli.warning", what=message), style="yellow")
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
        text = str(Message(f"cli.phase_{event.name}")) if event.name in PHASES else event.name
        counted = f" {event.done}/{event.total}" if event.total else ""
        if event.total and event.name == "download":  # counted in bytes
            counted = str(Message("cli.megabytes", done=event.done / 1e6, total=event.total / 1e6))
        detail = f": {event.detail}" if event.detail else ""
        is_new, self._phase = event.name != self._phase, event.name
        if self._has_bar:
            if event.name != "train":  # the first step draws the bar
                self._draw(_Bar(f"{text}{counted}{detail}"), at_once=is_new)
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
            self._draw(_Bar("", share, tuple(numbers)), at_once=last)
            return
        mark = int(share / PLAIN_SHARE + 1e-9)
        if mark > self._told_mark or last or self._clock() - self._told_at >= PLAIN_S:
            self._told_mark, self._told_at = mark, self._clock()
            self._line(Message("cli.step", numbers="  ".join(numbers)))

    def _show_state(self, event: State) -> None:
        if event.name != self._state:
            self._state = event.name
            known = {"running": Message("cli.goes_on"), "paused": Message("cli.paused")}
            self._line(known.get(event.name, f"{event.name}..."))

    def _draw(self, shown: _Bar, *, at_once: bool) -> None:
        now = self._clock()
        if not at_once and now - self._drawn_at < REDRAW_S:
            return
        self._drawn_at = now
        if self._live is not None:
            self._live.update(shown, refresh=True)
            return
        self._live = Live(shown, console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._live.start(refresh=True)
        self._console.show_cursor(True)  # whatever ends the program finds it shown

    def _line(self, told: str | Message, style: str = "") -> None:
        self._console.print(Text(_clean(str(told)), style), soft_wrap=True)

    def _end_bar(self) -> None:
        if self._live is not None:
            self._live.transient = self._phase != "train"  # of a phase that is over nobody wants to read
            self._live.stop()
            self._live, self._drawn_at = None, -math.inf


@dataclass(frozen=True)
class _Bar:
    """A text, or progress in the widest form that fits: with a bar, without it, with fewer numbers.

    Rich's own columns would cut or wrap the step number as readily as the memory.
    """

    text: str
    share: float = 0.0
    numbers: tuple[str, ...] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        numbers, width = self.numbers, options.max_width - 1  # some consoles go to a new line when the last is used
        while len(numbers) > 2 and len("  ".join(numbers)) + 6 > width:
            numbers = numbers[:-1]
        percent, text = f"{math.floor(self.share * 100):3d}%", "  ".join(numbers)
        room = min(width - len(percent) - len(text) - 3, BAR_MAX)
        if not numbers or room < BAR_MIN:
            shown = Text(_clean(self.text or f"{percent}  {text}"))
            shown.truncate(width)
            yield shown
            return
        line = Table.grid(padding=(0, 1))
        share = min(self.share, 1.0)
        bar = ProgressBar(1, share, room, style="bright_black", complete_style="green", finished_style="green")
        line.add_row(percent, bar, Text(f" {text}", no_wrap=True))
        yield line


class _Silencing(io.TextIOBase):
    """A stream that takes what its encoding lacks as "?", and nothing more once it is broken; Rich would stop at both."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._encoding = stream, stream.encoding or "ascii"
        self.is_broken = False

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return not self.is_broken and self._stream.isatty()

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text.encode(self._encoding, "replace").decode(self._encoding)))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, act: Callable[[], object]) -> None:
        if not self.is_broken:
            try:
                act()
            except (OSError, ValueError):  # ValueError: the stream is closed
                self.is_broken = True


def _clean(text: str) -> str:
    """File names and captions may hold line breaks and escape codes; a terminal must not obey them."""
    return "".join(c if c.isprintable() else " " for c in text)
