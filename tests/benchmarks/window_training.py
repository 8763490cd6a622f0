"""What an open page costs a training: one training, and turns in which its page lives or is frozen.

    python -m tests.benchmarks.window --only training [--pages 4] [--pairs 135]
    python -m tests.benchmarks.window --only null              (frozen in every turn: must come out as 1.00)

The same training alone varies by 15 % from minute to minute, and little from second to second, so what can tell 2 % are
many turns of two seconds. A frozen page is a browser whose processes are suspended: it asks for nothing, draws nothing.
Several pages are measured no worse and cost several times as much, so they bound the cost of one: as all of them go on
at the same moment, they get in each other's way and in the training's more than one page does.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from playwright.sync_api import Browser, Page

from lora_core.events import Step
from lora_core.runs.run import Run
from tests.e2e.conftest import Window

PAIRS, TURN_S, SETTLE_S, DRAWS = 135, 2.0, 0.5, 5000
# A step like every other, no save and no end within the hour.
SETTINGS = {"prior_pictures": "0", "save_steps": "100000", "max_train_steps": "100000"}


@dataclass(frozen=True)
class Turn:
    """A moment after the switch to its end. The seconds of each part are of the processor."""

    is_alive: bool
    began: float  # Unix seconds
    ended: float
    training_s: float
    server_s: float
    browser_s: float
    stolen_s: float  # what other guests of the machine were given


def training(
    browser: Browser, window: Window, pairs: int = PAIRS, pages: int = 1, is_null: bool = False
) -> dict[str, object]:
    """Steps per second of one training with pages that live to those with frozen ones; see `summary`."""
    starter = train_tab(browser, window)
    folder = _begin(starter, window)
    starter.close()
    shown = [train_tab(browser, window) for _ in range(pages)]  # as they are after a reload
    for page in shown:
        page.wait_for_selector("#train-plot [data-points]")
    offset = Run(folder).read()[1]
    frozen, turns = Frozen(), []
    try:
        for number in range(2 * pairs + 1):
            is_alive = number % 2 == 1
            frozen.set(is_null or not is_alive)
            time.sleep(SETTLE_S)
            turns.append(_turn(window, is_alive, TURN_S - SETTLE_S))
        time.sleep(2.0)  # until the last steps are told
    finally:
        frozen.set(False)
    told = [(event.step, at) for event, at in Run(folder).read(offset)[0] if isinstance(event, Step)]
    shown[0].locator("#train-stop").click()
    shown[0].wait_for_selector('#train-state[data-state="stopped"]')
    for page in shown:
        page.close()
    return {"pages": pages, **summary(turns, told, pages)}


class Frozen:
    """The browser's processes, suspended or not. What of them was suspended is woken again, whatever came of it."""

    def __init__(self) -> None:
        self._suspended: list[psutil.Process] = []

    def set(self, wanted: bool) -> None:
        if wanted == bool(self._suspended):
            return
        if wanted:
            self._suspended = _browser()
        for process in self._suspended:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend() if wanted else process.resume()
        if not wanted:
            self._suspended = []


def summary(turns: Sequence[Turn], told: Sequence[tuple[int, float]], pages: int = 1) -> dict[str, object]:
    """`ratio` is that of a turn alive to the mean of the turns before and after, in the median, and the two ends of the
    interval that holds it with 95 %; `one_page` is the same for each of several pages, at worst.

    `given` is the ratio of the processor time that the training was given in a second: what it waited for the page and
    the server, whatever the processor's own speed was in these seconds, so it is much finer; that caches are shared it
    does not see. The rest are means of each kind of turn: steps in a second, and seconds of the processor in a second.

    told: steps and the times at which they were told of.
    """
    ends = flushes(told)
    speeds = [_speed(ends, turn) for turn in turns]
    given = [turn.training_s / (turn.ended - turn.began) for turn in turns]
    found: dict[str, object] = {"pairs": len(turns) // 2}
    for measure, one_page, values in (("ratio", "one_page", speeds), ("given", "one_page_given", given)):
        ratios = _to_neighbours(values)
        around = statistics.median(ratios), *interval(ratios)
        found[measure] = [_short(value) for value in around]
        found[one_page] = [_short(value ** (1 / pages)) for value in around]
    for name, is_alive in (("frozen", False), ("alive", True)):
        kind = [index for index, turn in enumerate(turns) if turn.is_alive == is_alive]
        found[f"{name}_steps_per_s"] = _short(statistics.mean(speeds[index] for index in kind))
        for part in ("training_s", "server_s", "browser_s", "stolen_s"):
            shares = [getattr(turns[index], part) / (turns[index].ended - turns[index].began) for index in kind]
            found[f"{name}_{part}"] = _short(statistics.mean(shares))
    return found


def _to_neighbours(values: Sequence[float]) -> list[float]:
    """Every second value, from the second on, to the mean of the one before and the one after."""
    return [2 * now / (before + after) for before, now, after in zip(values, values[1:], values[2:], strict=False)][::2]


def interval(values: Sequence[float], share: float = 0.95) -> tuple[float, float]:
    """The interval that holds the median with this probability, by drawing as many values again and again (Efron 1979)."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(DRAWS))
    edge = round(DRAWS * (1 - share) / 2)
    return medians[edge], medians[-1 - edge]


def flushes(told: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Steps whose time is that of their end: steps are told several at once, right after the last of them."""
    return [one for one, later in itertools.pairwise(told) if later[1] - one[1] > 0.1]


def _speed(ends: Sequence[tuple[int, float]], turn: Turn) -> float:
    """Steps per second; how far a step had come when the turn began or ended is told by its share of the time."""
    steps, times = zip(*ends, strict=True)
    began, ended = np.interp((turn.began, turn.ended), times, steps)
    return float(ended - began) / (turn.ended - turn.began)


def _turn(window: Window, is_alive: bool, seconds: float) -> Turn:
    began, before = time.time(), _spent(window)
    time.sleep(seconds)
    spent = [now - then for now, then in zip(_spent(window), before, strict=True)]
    return Turn(is_alive, began, time.time(), *spent)


def _spent(window: Window) -> tuple[float, float, float, float]:
    """Seconds of the processor so far: of the training, of the server's other threads, of the browser, of other guests."""
    server = psutil.Process(window.process.pid)
    busiest = max(thread.user_time + thread.system_time for thread in server.threads())
    stolen = getattr(psutil.cpu_times(), "steal", 0.0)  # Linux alone tells it
    others = _seconds(server) - busiest  # not the sum of the threads: those that have ended are in none
    return busiest, others, sum(map(_seconds, _browser())), stolen


def _seconds(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        return float(sum(process.cpu_times()[:2]))
    return 0.0


def _browser() -> list[psutil.Process]:
    """The processes of the browser that this one has started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "chrom" in process.name().lower() or "edge" in process.name().lower():
                found.append(process)
    return found


def _begin(page: Page, window: Window) -> Path:
    """Start a training; its folder once it has made a few steps."""
    page.wait_for_selector("#train-start:enabled")
    for name, value in SETTINGS.items():
        page.locator("#train-search").fill(name)
        page.locator(f"#train-f-{name}").fill(value)
    page.wait_for_function("document.getElementById('train-plan-steps')?.textContent.includes('100000 ')")
    page.locator("#train-start").click()
    page.wait_for_function("Number(document.querySelector('#train-plot [data-points]')?.dataset.points) >= 5")
    (folder,) = window.runs.iterdir()
    return folder


def train_tab(browser: Browser, window: Window) -> Page:
    """A page of the window that shows the Train tab."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(300_000)
    page.goto(f"{window.url}en/")
    page.locator("#tab-train-button:visible").click()
    return page


def _short(value: float) -> float:
    return round(value, 4)
