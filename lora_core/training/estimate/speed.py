"""How long a training will take, from what was measured on this computer: nothing is taken from tables of cards.

At the end of each run its speed is kept with its settings (`remember`). The speed of other settings on the same device
follows by arithmetic counted on the real step. Before the first run the step that the check of this computer measured is
taken; where it was not made, a CPU is measured by a matrix product, a convolution and tiny operations, which gives a rough
figure, and of a graphics card nothing is claimed until it has trained once.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_core.config import TrainConfig
from lora_core.models.architecture import Shapes
from lora_core.models.computer import Computer, known
from lora_core.system.files import JsonMemo
from lora_core.system.paths import cache_folder
from lora_core.training.estimate import beside
from lora_core.training.estimate.counts import Graph
from lora_core.training.estimate.proven import mean_area, seconds, work_of

if TYPE_CHECKING:
    from lora_core.models.device import Compute
    from lora_core.training.data.plan import Plan, Size

VERSION = 1
MOST_KEPT = 200
BEFORE = ("caching", "loading")  # the first step
TRY_S = 0.1  # seconds for each of the three things a CPU is measured by


@dataclass(frozen=True)
class Pace:
    """Seconds of a step or a run. rough: from a trial of the CPU, not a training; measured: with these very settings.

    beside: seconds of what a run does beside its steps, by name, as far as they are known: validation and samples, which
    are in `seconds`, and caching and loading, which come before the first step.
    """

    seconds: float
    measured: bool = False
    rough: bool = False
    beside: Mapping[str, float] = field(default_factory=dict)

    @property
    def shares(self) -> dict[str, float]:
        """Of what is beside the steps, its part of the whole time from Start on."""
        whole = self.seconds + sum(self.beside.get(name, 0.0) for name in BEFORE)
        return {name: seconds / whole for name, seconds in self.beside.items() if whole}


@dataclass(frozen=True)
class Machine:
    """What a CPU was measured to do: FLOPs a second, and seconds to launch an operation."""

    flops: float
    launch_s: float


def step_seconds(config: TrainConfig, shapes: Shapes, compute: Compute, sizes: Collection[Size] = ()) -> Pace | None:
    """How long a step will take; None where nothing like it was measured or counted.

    The first question on a CPU takes a third of a second, for the trial.
    """
    mine, work = _key(config, shapes, compute, sizes), work_of(config, shapes, compute.dtype.itemsize, sizes)
    there = [row for row in _kept()["runs"] if row["device"] == mine["device"] and row["bytes"] == mine["bytes"]]
    for row in there:
        if all(row.get(name) == value for name, value in mine.items()):
            return Pace(1 / row["steps_per_second"], measured=True)
    if work is None:
        return None
    counted = [row for row in there if row["flops"]]
    alike = [row for row in counted if row.get("unet") == mine["unet"]]
    checked = None if alike else _as_checked(config, shapes, compute, sizes)
    if checked is not None:
        return Pace(checked)
    if counted:
        nearest = min(alike or counted, key=lambda row: abs(math.log(row["flops"] / work.flops)))
        return Pace(work.flops / nearest["flops"] / nearest["steps_per_second"])
    if compute.device.type != "cpu":
        return None
    machine = cpu()
    return Pace(work.flops / machine.flops + work.ops * machine.launch_s, rough=True)


def _as_checked(config: TrainConfig, shapes: Shapes, compute: Compute, sizes: Collection[Size]) -> float | None:
    """Seconds of a step by the check of this computer; None where it was never made."""
    found = _checked(compute)
    of_step = seconds(config, shapes, found, compute.dtype.itemsize, sizes) if found else None
    if of_step is None:
        return None
    return of_step.device if config.cuda_graphs == "on" else max(of_step.host, of_step.device)


def _checked(compute: Compute) -> Computer | None:
    from lora_core.training.estimate.fit import device_of  # brings torch

    device = device_of(compute)
    return known(device) if device else None


def run_seconds(config: TrainConfig, shapes: Shapes, compute: Compute, plan: Plan | None = None) -> Pace | None:
    """As `step_seconds`, of the whole run: steps, validations and samples; what comes before the first step is `beside`.

    Validation and samples count by their arithmetic, at the speed of the steps. Without a plan pictures are square.
    """
    pace = step_seconds(config, shapes, compute, plan.buckets if plan else ())
    if pace is None:
        return None
    width = compute.dtype.itemsize
    told = {name: pace.seconds * steps for name, steps in beside.in_steps(config, shapes, width, plan).items()}
    if told and plan and (loading := _loading_seconds(config, shapes, compute)):
        told["loading"] = loading
    seconds = pace.seconds * config.max_train_steps + sum(told.get(name, 0.0) for name in ("validation", "samples"))
    return Pace(seconds, pace.measured, pace.rough, told)


def _loading_seconds(config: TrainConfig, shapes: Shapes, compute: Compute) -> float:
    """Of the base model, by the check of this computer; 0.0 where it was never made."""
    found = _checked(compute)
    rate = found.disk_bytes_per_second if found else None
    return beside.loading_bytes(shapes, compute.dtype.itemsize, config) / rate if rate else 0.0


def remember(config: TrainConfig, shapes: Shapes, compute: Compute, sizes: Collection[Size], speed: float) -> None:
    """Keep the speed, in steps a second, of a training with these settings, as it ran."""
    mine, work = _key(config, shapes, compute, sizes), work_of(config, shapes, compute.dtype.itemsize, sizes)
    row = {**mine, "steps_per_second": speed, "flops": work.flops if work else 0.0, "at": time.time()}
    table = _kept()
    others = [old for old in table["runs"] if any(old.get(name) != value for name, value in mine.items())]
    JsonMemo(speeds_file()).write({**table, "runs": [row, *others][:MOST_KEPT]})


def cpu() -> Machine:
    """What this CPU can do, measured once and kept."""
    table, name = _kept(), _cpu_name()
    found = table["machines"].get(name)
    if isinstance(found, dict) and found.keys() == {"flops", "launch_s"}:
        return Machine(**found)
    machine = _trial()
    JsonMemo(speeds_file()).write({**table, "machines": {**table["machines"], name: asdict(machine)}})
    return machine


def _trial() -> Machine:
    """A matrix product and a convolution of sizes that occur in a UNet, each for a tenth of a second, and tiny sums."""
    import torch
    from torch.nn import functional as F

    matrix, pixels = torch.randn(640, 640), torch.randn(1, 160, 32, 32)
    kernel, numbers = torch.randn(160, 160, 3, 3), torch.randn(8, requires_grad=True)
    product = 2 * 640**3 / _fastest(lambda: matrix @ matrix)
    convolution = 2 * 160 * 160 * 9 * 32 * 32 / _fastest(lambda: F.conv2d(pixels, kernel, padding=1))
    # Two operations forward, three backward: about what an operation costs where its arithmetic is nothing.
    launch_s = _fastest(lambda: (numbers * numbers).sum().backward()) / 5
    return Machine(2 / (1 / product + 1 / convolution), launch_s)


def _fastest(work: Callable[[], object]) -> float:
    """Seconds of the quickest of as many tries as go into the time: what else the computer does meets the others."""
    laps: list[float] = []
    until = time.perf_counter() + TRY_S
    work()
    while not laps or time.perf_counter() < until:
        began = time.perf_counter()
        work()
        laps.append(time.perf_counter() - began)
    return min(laps)


def _key(config: TrainConfig, shapes: Shapes, compute: Compute, sizes: Collection[Size]) -> dict[str, Any]:
    graph = Graph.of(shapes, config, compute.dtype.itemsize)
    return {
        "device": _cpu_name() if compute.device.type == "cpu" else compute.title,
        **json.loads(json.dumps(asdict(graph))), "area": round(mean_area(config, sizes)), "batch": config.train_batch_size,
        "added": config.gradient_accumulation_steps, "rank": config.lora_rank,
    }  # fmt: skip


def _cpu_name() -> str:
    return f"CPU with {os.cpu_count()} cores"


def speeds_file() -> Path:
    return cache_folder() / "estimates" / "speeds.json"


def _kept() -> dict[str, Any]:
    try:
        table = JsonMemo(speeds_file()).read(dict)
        whole = table["version"] == VERSION and isinstance(table["machines"], dict)
        if whole and all({"device", "bytes", "flops", "steps_per_second"} <= row.keys() for row in table["runs"]):
            return dict(table)
    except (KeyError, TypeError, AttributeError):
        pass  # none yet, or damaged: it fills again with the next run
    return {"version": VERSION, "runs": [], "machines": {}}
