"""Seconds of training until the concept score reaches 90 %, preset beside preset, on the starter and Training/.

    python -m tests.benchmarks.time_to_concept [--presets quickstart careful FILE.toml] [--out FOLDER] [--limit-s 600]

Every preset trains through the door, on the starter at its 64 pixels, with checkpoints every --every steps and no sample
pictures. The clock runs from the start of the process, with a warm cache, less the time for saving and validating. Scores
are taken afterwards, outside the clock, checkpoint by checkpoint until one has enough. "careful" is the brief's default
recipe. What is done is kept in FOLDER/results.json: a second start goes on. "quickstart:learning_rate=1e-3,seed=2"
changes settings; ";" parts the names of a list, as in "quickstart:target_blocks=mid;up". Goal: half the seconds of the
default recipe at no more leak.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from diffusers.utils import logging as diffusers_logging

from lora_core.config import TrainConfig, find_preset, settings
from lora_core.events import Event, Saved, Step
from lora_core.runs.run import Run, resumable
from lora_core.starter.score import score_lora
from lora_core.system.files import write_text_whole
from tests import ROOT

ENOUGH = 0.9
# What every preset is given, so that they can be compared: the toy model, its pictures and its size.
SAME: dict[str, object] = {
    "pretrained_model_name_or_path": "starter", "train_data_dir": str(ROOT / "Training"), "trigger_word": "ampulheta",
    "resolution": 64, "bucket_step": 32, "sample_count": 0, "keep_states": 1,
}  # fmt: skip


@dataclass
class Result:
    """What is known of a preset. `scores` by step; `seconds`: of the clock at the end of that step."""

    seconds: dict[int, float] = field(default_factory=dict)
    scores: dict[int, dict[str, float]] = field(default_factory=dict)
    ended: bool = False  # the training, by its last step or by the limit
    starts: list[float] = field(default_factory=list)  # of its processes, in Unix seconds

    @property
    def reached(self) -> int | None:
        """The first step whose score is enough; None when there is none yet."""
        return next((step for step in sorted(self.scores) if self.scores[step]["concept_with"] >= ENOUGH), None)


def config_of(spec: str, every: int, folder: Path) -> TrainConfig:
    """The settings of "preset" or "preset:name=value,name=value"."""
    name, _, changes = spec.partition(":")
    changed = dict(change.split("=", 1) for change in changes.split(",") if change)
    for each in settings().values():
        if each.choices and each.name in changed:
            changed[each.name] = changed[each.name].replace(";", ",")
    values = {**find_preset(name).values, **SAME, "save_steps": every, "output_dir": str(folder), **changed}
    return TrainConfig.of(values)


def train(config: TrainConfig, cache: Path, limit_s: float) -> None:
    """Train, or go on, for so many seconds at most."""
    run = Run(Path(config.output_dir))
    run.folder.mkdir(parents=True, exist_ok=True)
    has_begun = bool(resumable(run.checkpoints))
    preset = run.folder.parent / f"{run.folder.name}.toml"
    write_text_whole(preset, config.to_toml())
    words = ["--resume", "--output_dir", str(run.folder)] if has_begun else ["--preset", str(preset)]
    environment = {**os.environ, "TREINO_CACHE": str(cache), "PYTHONUTF8": "1"}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "treino.py"), *words], env=environment, stdout=subprocess.DEVNULL
    )
    try:
        if process.wait(limit_s) != 0:
            raise SystemExit(f"the training in {run.folder} failed with exit code {process.returncode}")
    except subprocess.TimeoutExpired:
        print(f"{run.folder.name}: stopped after {limit_s:.0f} s", flush=True)
    finally:
        process.kill()
        process.wait()


def clock(told: Sequence[tuple[Event, float]], starts: Sequence[float]) -> dict[int, float]:
    """Seconds of training at each save: of all its processes, without what passed between a step and the end of its save.

    A process that went on from a save goes on from its seconds too.
    """
    found: dict[int, float] = {}
    for began, end in pairwise([*starts, float("inf")]):
        last_step, aside, before = began, 0.0, max(found.values(), default=0.0)
        for event, at in told:
            if isinstance(event, Step) and began <= at < end:
                last_step = at
            elif isinstance(event, Saved) and began <= at < end:
                found[event.step] = round(before + last_step - began - aside, 1)
                aside += at - last_step
    return found


def score(lora: Path, prompts: int) -> dict[str, float]:
    diffusers_logging.disable_progress_bar()
    trained = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "Training").glob("*.txt"))]
    return score_lora(lora, trained, prompts)


def advance(spec: str, known: Result, asked: argparse.Namespace, keep: Callable[[], None]) -> None:
    """Train what is not trained yet, and score what is not scored yet up to the first that is enough."""
    folder = asked.out / spec.translate(str.maketrans(":/\\= ,", "_-----"))
    config = config_of(spec, asked.every, folder)
    if not known.ended and known.reached is None:
        fill_cache(config, asked.out)
        known.starts.append(time.time())
        keep()
        train(config, asked.out / "cache", asked.limit_s)
        known.ended = True
    known.seconds = clock(Run(folder).read()[0], known.starts)
    for lora in Run(folder).checkpoint_loras():
        step = int(lora.parent.name.rpartition("_")[2])
        if known.reached is None and step in known.seconds and step not in known.scores:
            known.scores[step] = score(lora, asked.prompts)
            keep()
            print(f"{spec}: step {step}, {known.seconds[step]:.0f} s, {known.scores[step]}", flush=True)


def fill_cache(config: TrainConfig, out: Path) -> None:
    """Prepare the pictures once, so that every preset starts warm."""
    warm = config.replace(max_train_steps=1, save_steps=1, output_dir=str(out / "warm"))
    train(warm, out / "cache", 1800)


def row(spec: str, result: Result) -> str:
    step = result.reached
    best = step or max(result.scores, key=lambda n: result.scores[n]["concept_with"], default=None)
    if best is None:
        return f"| {spec} | - | - | - | - | - |"
    found = result.scores[best]
    reached = f"{result.seconds[best]:.0f} s" if step else f"not within {max(result.seconds.values()):.0f} s"
    shares = " | ".join(f"{found[name]:.0%}" for name in ("concept_with", "leak", "others_right"))
    return f"| {spec} | {reached} | {best} | {shares} |"


def read_results(path: Path) -> dict[str, Result]:
    if not path.exists():
        return {}
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {
        spec: Result(
            {int(step): s for step, s in held["seconds"].items()}, {int(step): s for step, s in held["scores"].items()},
            held["ended"], held["starts"],
        )
        for spec, held in kept.items()
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["quickstart", "careful"], metavar="PRESET[:NAME=VALUE,...]")
    parser.add_argument("--out", type=Path, default=Path("lora_out") / "time_to_concept")
    parser.add_argument("--limit-s", type=float, default=600, help="of training, for each preset at each start")
    parser.add_argument("--every", type=int, default=50, help="steps between checkpoints")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--go-on", action="store_true", help="train on what ran into its limit before")
    asked = parser.parse_args()
    asked.out = asked.out.absolute()
    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / "results.json"
    results = read_results(path)

    def keep() -> None:
        kept = {name: dataclasses.asdict(result) for name, result in results.items()}
        write_text_whole(path, json.dumps(kept, indent=1))

    for spec in asked.presets:
        known = results.setdefault(spec, Result())
        known.ended = known.ended and not asked.go_on
        advance(spec, known, asked, keep)
        keep()
    print("| preset | 90 % after | step | concept | leak | others right |\n|---|---|---|---|---|---|")
    print("\n".join(row(spec, results[spec]) for spec in asked.presets))


if __name__ == "__main__":
    main()
