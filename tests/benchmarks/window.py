"""The window as a user meets it: seconds until it can be used, what large data costs it, and what it costs a training.

    python -m tests.benchmarks.window [--only start dataset run training null] [--pages 1] [--pairs 135]

Goals on 2 CPU cores: usable <= 5 s after the first line in the terminal; a page that stays as small and quick with
1,000 pictures and with a run of 20,000 steps as with a few; a training with a page open at >= 98 % of its speed without.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from lora_core.config import TrainConfig
from lora_core.events import Step, Validation, to_line
from lora_core.runs.run import Run
from tests import ROOT
from tests.benchmarks.window_training import PAIRS, training
from tests.e2e.conftest import FLAGS, Window, program, start_window

PICTURES, STEPS, WATCH_S = 1000, 20_000, 20
_WATCH = """() => {
    window.long = [];
    const note = list => long.push(...list.getEntries().map(entry => entry.duration));
    new PerformanceObserver(note).observe({entryTypes: ["longtask"]});
    performance.clearResourceTimings();
    performance.setResourceTimingBufferSize(5000);
}"""
_SEEN = """() => ({long: window.long, calls: performance.getEntriesByType("resource")
    .filter(entry => /predict|queue|ping|poll|dataset/.test(entry.name))
    .map(entry => [entry.name.replace(/[?].*/, ""), entry.duration, entry.decodedBodySize])})"""
_THUMBNAILS = """[...document.querySelectorAll("#dataset img")]
    .filter(image => image.complete && image.naturalWidth > 0 && image.offsetParent).length >= 6"""


def start(browser: Browser, rounds: int = 3) -> dict[str, float]:
    """Seconds from the first line in the terminal to a page that can be used, and to the core in memory."""
    usable, whole, lines = [], [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            window = start_window(Path(folder))
            line = time.monotonic()
            page = browser.new_page()
            page.set_default_timeout(120_000)
            page.goto(f"{window.url}en/")
            page.locator("#dataset-folder").click()  # waits until it is there, visible and enabled
            usable.append(time.monotonic() - line)
            lines.append(line - began)
            while not page.request.get(f"{window.url}ping").json()["core"]:
                page.wait_for_timeout(100)
            whole.append(time.monotonic() - line)
            page.close()
            window.stop()
    seconds = {"line_s": lines, "usable_s": usable, "core_s": whole}
    return {name: round(statistics.median(values), 2) for name, values in seconds.items()}


def cost(page: Page) -> dict[str, float]:
    """What a page holds and does while it is only watched: heap, elements, and the calls and pauses of each second."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    session.send("Performance.enable")
    metrics = {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}
    page.evaluate(_WATCH)
    page.wait_for_timeout(WATCH_S * 1000)
    seen: dict[str, Any] = page.evaluate(_SEEN)
    durations = [call[1] for call in seen["calls"]] or [math.nan]
    return {
        "heap_mib": round(metrics["JSHeapUsedSize"] / 2**20, 1), "elements": metrics["Nodes"],
        "calls_per_s": round(len(seen["calls"]) / WATCH_S, 2),
        "kib_per_s": round(sum(call[2] for call in seen["calls"]) / 1024 / WATCH_S, 1),
        "call_ms": round(statistics.median(durations), 1), "slowest_call_ms": round(max(durations), 1),
        "longest_pause_ms": round(max(seen["long"], default=0.0), 1), "pauses_over_50_ms": len(seen["long"]),
    }  # fmt: skip


def dataset(browser: Browser, window: Window, pictures: int) -> dict[str, float]:
    """A folder of so many pictures opened: seconds until the first thumbnails are there, then the page's cost."""
    folder = window.home.parent / f"pictures {pictures}"
    folder.mkdir()
    random = np.random.default_rng(0)
    for n in range(pictures):
        small = Image.fromarray(random.integers(0, 255, (8, 8, 3), dtype=np.uint8))
        small.resize((512, 512), Image.Resampling.BICUBIC).save(folder / f"{n:04}.jpg", quality=80)
        (folder / f"{n:04}.txt").write_text(f"picture {n}, drawn by chance, tag{n % 40}", encoding="utf-8")
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(300_000)
    page.goto(f"{window.url}en/")
    page.locator("#dataset-folder").fill(str(folder))
    began = time.monotonic()
    page.locator("#dataset-folder").press("Enter")
    page.wait_for_function(f"document.getElementById('dataset-count').textContent.startsWith('{pictures} ')")
    page.wait_for_function(_THUMBNAILS)
    seconds = time.monotonic() - began
    found = {"first_thumbnails_s": round(seconds, 2), **cost(page)}
    page.close()
    return found


def long_run(browser: Browser, window: Window, steps: int) -> dict[str, float]:
    """A run of so many steps in the Runs tab, that goes on while it is watched: the page's cost."""
    run = Run(window.runs / f"steps {steps}")
    run.begin(TrainConfig(train_data_dir=str(ROOT / "Training"), output_dir=str(run.folder), max_train_steps=steps * 2))
    with run.events_file.open("ab") as file:
        for step in range(1, steps + 1):
            file.write(to_line(_step(step, steps * 2), time.time()).encode() + b"\n")
            if step % 500 == 0:
                file.write(to_line(Validation(step, 0.1 + 10 / step, 0.1, False), time.time()).encode() + b"\n")
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(300_000)
    page.goto(f"{window.url}en/")
    page.locator("#tab-runs-button:visible").click()
    page.get_by_text(run.folder.name).first.click()
    page.wait_for_selector("#tab-runs svg path")
    ended = threading.Event()
    writer = threading.Thread(target=_go_on, args=(run, steps, ended))
    writer.start()
    found = cost(page)
    ended.set()
    writer.join()
    page.close()
    return found


def _step(step: int, total: int) -> Step:
    return Step(step, total, 0.1 + math.exp(-step / 3000) + 0.05 * math.sin(step), 1e-4, 9.0, 100.0)


def _go_on(run: Run, steps: int, ended: threading.Event) -> None:
    step = steps
    while not ended.wait(0.1):
        step += 1
        run.append(_step(step, steps * 2))


@contextlib.contextmanager
def opened() -> Iterator[Window]:
    with tempfile.TemporaryDirectory() as folder:
        window = start_window(Path(folder))
        try:
            yield window
        finally:
            window.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("start", "dataset", "run", "training")
    parser.add_argument("--only", nargs="+", choices=(*parts, "null"), default=parts)
    parser.add_argument("--pairs", type=int, default=PAIRS, help="turns of a training with pages that live")
    parser.add_argument("--pages", type=int, default=1, help="how many of them; each costs about the same")
    asked = parser.parse_args()
    only = asked.only
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program(), args=[*FLAGS, "--enable-precise-memory-info"])
        if "start" in only:
            print("start", json.dumps(start(browser)), flush=True)
        for name, few, many, measure in (("dataset", 20, PICTURES, dataset), ("run", 200, STEPS, long_run)):
            if name in only:
                with opened() as window:
                    for count in (few, many):
                        print(f"{name} of {count}", json.dumps(measure(browser, window, count)), flush=True)
        for name in ("null", "training"):
            if name in only:
                with opened() as window:
                    found = training(browser, window, asked.pairs, asked.pages, is_null=name == "null")
                print(name, json.dumps(found), flush=True)
        browser.close()


if __name__ == "__main__":
    main()
