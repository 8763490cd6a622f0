"""Seconds from the start of the process to the first training step with a warm cache, and where they go.

    python -m tests.benchmarks.startup [--rounds 5] [--base sd1|sdxl|MODEL --resolution 512] [--imports] [--window]
        [--init_lora FILE]

Trains through the door: with the quickstart preset, or with --base on the pictures in Training/; "sd1", "sd2" and "sdxl"
are built with random weights. The first start fills an empty cache and is told apart. Times are those of the run's own
events; processor time leaves out what waited for other work. --imports: the costliest modules by `python -X importtime`,
which itself makes imports slower. --init_lora: by turns, also starts that go on from a LoRA. --window: seconds to a page
that can be used, by tests/benchmarks/window.py. Goals on 2 CPU cores: first step <= 8 s, window <= 5 s, and going on from
a LoRA no second more.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import psutil

from lora_core.events import Event, Phase, Sample, State, Step, Validation
from lora_core.runs.run import Run
from tests import ROOT
from tests.benchmarks.full_size import PIPELINES, build

PATIENCE_S = 1800.0
STAGES = ("imports", "pictures and model", "cache", "adapters and validation", "base samples", "first step")
IMPORTED = re.compile(r"import time: +(\d+) \| +(\d+) \|( +)(\S+)")


def command(asked: argparse.Namespace) -> list[str]:
    door = [sys.executable, str(ROOT / "treino.py")]
    if not asked.base:
        return [*door, "--preset", "quickstart"]
    return [
        *door, "--train_data_dir", str(ROOT / "Training"), "--pretrained_model_name_or_path", asked.base,
        "--resolution", str(asked.resolution), "--target_modules", "to_q,to_k,to_v,to_out.0", "--mixed_precision", "bf16",
    ]  # fmt: skip


def once(words: list[str], cache: Path) -> dict[str, float]:
    """Seconds of every stage of one start, up to the first step, after which the process is killed."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.time()
        process = subprocess.Popen(
            [*words, "--output_dir", folder, "--max_train_steps", "1000", "--save_steps", "1000"],
            env={**os.environ, "TREINO_CACHE": str(cache), "PYTHONUTF8": "1"}, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            told = _until_first_step(process, Run(Path(folder)))
            used = psutil.Process(process.pid).cpu_times()
        finally:
            process.kill()
            process.wait()
    return {**stages(told, began), "of processor time": used.user + used.system}


def _until_first_step(process: subprocess.Popen[bytes], run: Run) -> list[tuple[Event, float]]:
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline:
        told = run.read()[0] if run.events_file.exists() else []
        if any(isinstance(event, Step) for event, _ in told):
            return told
        time.sleep(0.05)
    raise SystemExit(f"there was no first step; the process ended with {process.poll()}")


def stages(told: list[tuple[Event, float]], began: float) -> dict[str, float]:
    """Seconds between the marks that a start leaves in its events."""

    def first(*kinds: type[Event]) -> float:
        return next(at for event, at in told if isinstance(event, kinds))

    cached = [at for event, at in told if isinstance(event, Phase) and event.name in ("cache", "prior")]
    drawn = [at for event, at in told if isinstance(event, Sample)]
    marks = [began, first(State), cached[0], cached[-1], first(Validation), *drawn[-1:], first(Step)]
    names = STAGES if drawn else tuple(name for name in STAGES if name != "base samples")
    seconds = {name: end - start for name, (start, end) in zip(names, pairwise(marks), strict=True)}
    return {**seconds, "to the first step": marks[-1] - began}


def told_as_table(rounds: list[dict[str, float]]) -> str:
    """Median and range of every stage."""
    lines = []
    for name in rounds[0]:
        values = sorted(each[name] for each in rounds)
        lines.append(f"{name:26}{statistics.median(values):6.2f} s  ({values[0]:.2f} to {values[-1]:.2f})")
    return "\n".join(lines)


def imports(most: int = 14) -> str:
    """The modules that cost most, with what they bring, down to where less than 0.15 s is left."""
    words = [sys.executable, "-X", "importtime", "-c", "import lora_core.training.job"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    found = [(int(hit[2]), hit[4]) for hit in map(IMPORTED.match, done.stderr.splitlines()) if hit]
    whole = sorted((cost, name) for cost, name in found if cost > 150_000)[::-1][:most]
    return "\n".join(f"{name:44}{cost / 1e6:6.2f} s" for cost, name in whole)


def window() -> str:
    """What tests/benchmarks/window.py finds."""
    from playwright.sync_api import sync_playwright

    from tests.benchmarks.window import start
    from tests.e2e.conftest import FLAGS, program

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program(), args=FLAGS)
        found = start(browser)
        browser.close()
    return "   ".join(f"{name} {seconds:.2f}" for name, seconds in found.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--base", default="", help="a base model instead of the starter")
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--init_lora", default="", help="a LoRA to go on from, beside starts without one")
    parser.add_argument("--imports", action="store_true")
    parser.add_argument("--window", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        if asked.base in PIPELINES:
            build(asked.base, Path(cache) / "models" / asked.base)
            asked.base = str(Path(cache) / "models" / asked.base)
        cold = once(command(asked), Path(cache))
        print(
            f"the first start, which fills the cache: {cold['to the first step']:.1f} s\nwith the cache warm:", flush=True
        )
        ways = [command(asked), *([[*command(asked), "--init_lora", asked.init_lora]] if asked.init_lora else [])]
        rounds = [[once(words, Path(cache)) for words in ways] for _ in range(asked.rounds)]
        for title, found in zip(("", "\ngoing on from a LoRA:\n"), zip(*rounds, strict=True), strict=False):
            print(f"{title}{told_as_table(list(found))}", flush=True)
    if asked.imports:
        print(f"\nimports\n{imports()}", flush=True)
    if asked.window:
        print(f"\nwindow   {window()}", flush=True)


if __name__ == "__main__":
    main()
