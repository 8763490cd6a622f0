"""What a training will cost: the one answer that terminal and window show before it starts."""

from __future__ import annotations

from dataclasses import dataclass

from lora_core.config import TrainConfig
from lora_core.errors import UserError
from lora_core.models.architecture import shapes_of
from lora_core.models.device import Compute, choose
from lora_core.training.data.plan import Plan
from lora_core.training.estimate.disk import Disk, disk
from lora_core.training.estimate.fit import Fit, as_it_runs, device_of, fits
from lora_core.training.estimate.levels import Level, levels
from lora_core.training.estimate.memory import Memory, memory
from lora_core.training.estimate.speed import Pace, run_seconds


@dataclass(frozen=True)
class Estimate:
    """A training's cost on its device; None: it was never counted or measured.

    memory: as the training would run, with what is changed to make it fit. fit: against what the device has; None also
    for a device that is not here. levels: more or less memory to choose from. certain: the base model's shapes are known,
    not guessed from its name. is_base_known: there is such a base model, and a device to train on.
    """

    memory: Memory | None = None
    fit: Fit | None = None
    disk: Disk | None = None
    time: Pace | None = None
    levels: tuple[Level, ...] = ()
    certain: bool = True
    is_base_known: bool = True


def estimate(config: TrainConfig, plan: Plan | None = None, compute: Compute | None = None) -> Estimate:
    """The cost of a training; with its plan also of its pictures' sizes, the disk, and the levels of memory.

    What is wrong with the base model or the device is told when they are loaded: here it is a cost not known.
    """
    try:
        shapes = shapes_of(config.pretrained_model_name_or_path)
        compute = compute or choose(config.device, config.mixed_precision)
    except UserError:
        return Estimate(is_base_known=False)
    device, sizes, width = device_of(compute), plan.buckets if plan else {}, compute.dtype.itemsize
    fit = fits(config, shapes, device, sizes, width) if device else None
    runs = as_it_runs(config, shapes, device, fit, sizes, width) if device else config
    asked = as_it_runs(config, shapes, device, None, sizes, width) if device else config
    return Estimate(
        memory=memory(runs, shapes, sizes, width), fit=fit, disk=disk(runs, plan, shapes) if plan else None,
        time=run_seconds(runs, shapes, compute, plan),
        levels=tuple(levels(asked, shapes, device, fit, sizes, width)) if device and plan else (), certain=shapes.certain,
    )  # fmt: skip
