"""The quickstart as a user runs it: seconds and memory from start to finished file, and what the LoRA learned.

    python -m tests.benchmarks.quickstart [--seeds 42 1 2] [--eight_bit_base and other settings]

Runs the door with an empty cache, so that nothing is measured warm that a user would meet cold (set-up not counted).
Beside the seconds stands the processor time it took, and what other guests of the same machine were given meanwhile
(Linux tells it): the same work took 101 and 154 s within a quarter of an hour.
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
from dataclasses import dataclass
from pathlib import Path

import psutil

from lora_core.starter.score import score_lora
from tests import ROOT


def run_once(seed: int, home: Path, settings: Sequence[str] = ()) -> dict[str, float]:
    """Train with the quickstart preset in a process of its own; returns seconds, peak MiB and the scores."""
    environment = {**os.environ, "TREINO_CACHE": str(home / "cache"), "PYTHONUTF8": "1"}
    command = [sys.executable, "treino.py", "--preset", "quickstart", "--seed", str(seed)]
    began = time.monotonic()
    command += ["--output_dir", str(home / "out"), *settings]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    seen, before = _Seen(), psutil.cpu_times()
    watcher = threading.Thread(target=_watch, args=(process, seen))
    watcher.start()
    if process.wait() != 0:
        raise SystemExit(f"the quickstart failed with exit code {process.returncode}")
    seconds = time.monotonic() - began
    watcher.join()
    stolen = getattr(psutil.cpu_times(), "steal", 0.0) - getattr(before, "steal", 0.0)
    (lora,) = (home / "out").glob("*.safetensors")
    trained = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "Training").glob("*.txt"))]
    return {
        "seconds": round(seconds, 1), "processor_s": round(seen.processor_s, 1), "stolen_s": round(stolen, 1),
        "peak_mib": round(seen.peak_bytes / 2**20), **score_lora(lora, trained),
    }  # fmt: skip


@dataclass
class _Seen:
    peak_bytes: int = 0
    processor_s: float = 0.0


def _watch(process: subprocess.Popen[bytes], seen: _Seen) -> None:
    """Keep the largest resident size and the processor time of the process and its children while it lives."""
    while process.poll() is None:
        try:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            seen.peak_bytes = max(seen.peak_bytes, sum(p.memory_info().rss for p in family))
            seen.processor_s = max(seen.processor_s, sum(p.cpu_times().user + p.cpu_times().system for p in family))
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
