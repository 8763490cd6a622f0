"""The quickstart as a user runs it: seconds and memory from start to finished file, and what the LoRA learned.

    python -m tests.benchmarks.quickstart [--seeds 42 1 2] [--eight_bit_base and other settings]

Runs the door with an empty cache, so that nothing is measured warm that a user would meet cold (set-up not counted).
Goal on 2 CPU cores: <= 120 s; concept score >= 90 % with the LoRA, <= 5 % without, leak <= 10 %.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from lora_core.starter.score import score_lora

ROOT = Path(__file__).parent.parent.parent


def run_once(seed: int, home: Path, settings: Sequence[str] = ()) -> dict[str, float]:
    """Train with the quickstart preset in a process of its own; returns wall seconds, peak MiB and the scores."""
    environment = {**os.environ, "TREINO_CACHE": str(home / "cache"), "PYTHONUTF8": "1"}
    command = [sys.executable, str(ROOT / "treino.py"), "--preset", "quickstart", "--seed", str(seed)]
    began = time.monotonic()
    command += ["--output_dir", str(home / "out"), *settings]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(process, peak))
    watcher.start()
    if process.wait() != 0:
        raise SystemExit(f"the quickstart failed with exit code {process.returncode}")
    seconds = time.monotonic() - began
    watcher.join()
    (lora,) = (home / "out").glob("*.safetensors")
    trained = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "Training").glob("*.txt"))]
    return {"seconds": round(seconds, 1), "peak_mib": round(peak[0] / 2**20), **score_lora(lora, trained)}


def _watch(process: subprocess.Popen[bytes], peak: list[int]) -> None:
    """Keep the largest resident size of the process and its children while it lives."""
    while process.poll() is None:
        try:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            peak[0] = max(peak[0], sum(p.memory_info().rss for p in family))
        except psutil.NoSuchProcess:
            continue
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    asked, settings = parser.parse_known_args()
    for seed in asked.seeds:
        with tempfile.TemporaryDirectory() as home:
            print(json.dumps({"seed": seed, **run_once(seed, Path(home), settings)}), flush=True)


if __name__ == "__main__":
    main()
