"""A long training in the real window, with saving, sampling and two pages that poll: does anything grow?

    python -m tests.benchmarks.soak [--steps 50000] [--minutes 0]

Two clients do what two open pages do: ping, the Train tab's event of each second, the heartbeat and every new picture.
Each second the window's process is looked at from outside. Goals over the last 80 % of the steps: memory grows by 2 % at
most, threads and handles by none. With --minutes it is stopped then, and the figures are of the steps it came to.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from lora_core.events import Failed, Finished, Step
from lora_core.runs.run import Run
from lora_core.ui.tabs.train import form
from tests import ROOT
from tests.e2e.conftest import Window, start_window
from tests.support.web_page import Heartbeat, WebPage

LONGEST_WAIT_S = 300.0  # for a start, or for a step
# As light a step as there is: what could grow grows with the number of steps, not with their work.
SETTINGS: dict[str, object] = {
    "pretrained_model_name_or_path": "starter", "train_data_dir": str(ROOT / "Training"), "resolution": 64,
    "lora_rank": 4, "learning_rate": 1e-4, "mixed_precision": "no", "lean_activations": False, "train_batch_size": 1,
    "sample_count": 2, "sample_inference_steps": 4, "target_modules": ["to_v"],
}  # fmt: skip


@dataclass(frozen=True)
class Look:
    """The window's process at a moment."""

    step: int
    at: float
    memory: int
    threads: int
    handles: int


_NOTHING = Look(0, 0.0, 0, 0, 0)


@dataclass
class Soak:
    """What was seen."""

    steps: int
    looks: list[Look] = field(default_factory=list)
    events_bytes: int = 0
    largest_payload: int = 0
    missed: list[str] = field(default_factory=list)  # what a page was refused, or waited for in vain
    failed: str = ""

    @property
    def last_step(self) -> int:
        return self.looks[-1].step if self.looks else 0

    def growth(self, of: str) -> tuple[float, float]:
        """The median of an attribute over the tenth after the first fifth, and over the last tenth of the steps.

        Of a training so short that none was looked at there, the nearest look. No looks: zeros.
        """
        ends = []
        for low, high in ((0.2, 0.3), (0.9, 1.0)):
            seen = [look for look in self.looks if low * self.last_step <= look.step <= high * self.last_step]
            nearest = sorted(self.looks, key=lambda look: abs(look.step - (low + high) / 2 * self.last_step))[:1]
            ends.append(float(statistics.median(getattr(look, of) for look in seen or nearest or [_NOTHING])))
        return ends[0], ends[1]

    def line(self) -> str:
        """The figures, in one line."""
        (memory, later), threads, handles = self.growth("memory"), self.growth("threads"), self.growth("handles")
        seconds = self.looks[-1].at - self.looks[0].at if self.looks else 0.0
        speed = self.last_step / (seconds or 1)
        bytes_per_step = self.events_bytes / (self.last_step or 1)
        parts = [
            f"{self.last_step} of {self.steps} steps in {seconds / 60:.0f} min ({speed:.1f} steps/s)",
            f"memory over the last 80 % {memory / 2**20:.0f} to {later / 2**20:.0f} MiB ({later / (memory or 1) - 1:+.1%})",
            f"threads {threads[0]:.0f} to {threads[1]:.0f}, handles {handles[0]:.0f} to {handles[1]:.0f}",
            f"events.jsonl {self.events_bytes / 2**20:.1f} MiB ({bytes_per_step:.0f} bytes per step)",
            f"largest answer to a page {self.largest_payload / 1024:.0f} KiB",
            f"{len(self.missed)} requests failed",
        ]
        return "; ".join(parts + [self.failed] * bool(self.failed))


def soak(steps: int, folder: Path, minutes: float = 0.0, save_steps: int = 500, seconds: float = 1.0) -> Soak:
    """Train so many steps in a window of its own below `folder`; `seconds` lie between two looks, and two polls."""
    window = start_window(folder)
    found, ended = Soak(steps), threading.Event()
    watchers: list[threading.Thread] = []
    try:
        pages = [WebPage(window.url, language) for language in ("en", "pt-BR")]
        run = _begin(pages[0], window, {**SETTINGS, "max_train_steps": steps, "save_steps": save_steps})
        watchers = [threading.Thread(target=_watch, args=(page, found, ended, seconds)) for page in pages]
        for watcher in watchers:
            watcher.start()
        _follow(run, window, found, time.monotonic() + (minutes * 60 or 1e9), seconds)
        found.largest_payload = max(page.largest for page in pages)
        found.events_bytes = run.events_file.stat().st_size
    finally:
        ended.set()
        for watcher in watchers:
            watcher.join()
        window.stop()
    return found


def _begin(page: WebPage, window: Window, values: dict[str, object]) -> Run:
    """Press Start until it is allowed: the pictures are read and the core is imported first."""
    said = json.dumps({"values": form.boxes(values), "card": ""})
    until = time.monotonic() + LONGEST_WAIT_S
    while page.ping()["training"] == "idle":
        page.call(page.event("train-start", "click"), [said, None, False])
        assert time.monotonic() < until, "the training did not begin"
        time.sleep(0.2)
    while not (begun := list(window.runs.glob("*/events.jsonl"))):
        assert time.monotonic() < until, "the run has no events"
        time.sleep(0.2)
    return Run(begun[0].parent)


def _watch(page: WebPage, found: Soak, ended: threading.Event, seconds: float) -> None:
    """An open page, until the end."""
    heart = Heartbeat(page)
    while not ended.wait(seconds):
        try:
            page.ping()
            page.look()
            heart.hear()
        except OSError as error:
            found.missed.append(str(error))
    heart.close()
    page.close()


def _follow(run: Run, window: Window, found: Soak, until: float, seconds: float) -> None:
    """Look at the process each second until the run tells of its end; stop it when the time is up."""
    process, offset, step, stopped = psutil.Process(window.process.pid), 0, 0, False
    told, moved = 0, time.monotonic()
    while True:
        events, offset = run.read(offset)
        steps = [event.step for event, _ in events if isinstance(event, Step)]
        if steps:
            step, moved = steps[-1], time.monotonic()
            found.looks.append(_look(process, step))
        if ends := [event for event, _ in events if isinstance(event, Failed | Finished)]:
            found.failed = ends[0].message if isinstance(ends[0], Failed) else ""
            return
        if time.monotonic() > until and not stopped:
            stopped = True
            page = WebPage(window.url)
            page.call(page.event("train-stop", "click"), [None, False])
            page.close()
        if time.monotonic() - moved > LONGEST_WAIT_S:
            found.failed = "no step came any more"
            return
        if step // 1000 > told:
            told = step // 1000
            print(f"{time.strftime('%H:%M:%S')} {found.line()}", flush=True)
        time.sleep(seconds)


def _look(process: psutil.Process, step: int) -> Look:
    handles = process.num_handles() if sys.platform == "win32" else process.num_fds()
    return Look(step, time.monotonic(), process.memory_info().rss, process.num_threads(), handles)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--minutes", type=float, default=0.0, help="stop then; 0 never does")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="treino-soak-") as folder:
        found = soak(given.steps, Path(folder), given.minutes)
    print(f"soak: {found.line()}")
    return 1 if found.failed or found.missed else 0


if __name__ == "__main__":
    sys.exit(main())
