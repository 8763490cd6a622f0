"""The plan of a training in a few short lines, as a terminal shows it before the first step."""

from __future__ import annotations

from lora_core.config import TrainConfig
from lora_core.errors import UserError
from lora_core.models.architecture import Shapes, shapes_of
from lora_core.models.device import Compute
from lora_core.system.units import duration, memory_size
from lora_core.training.data.plan import Plan
from lora_core.training.estimate import fit as memory
from lora_core.training.estimate import memory as estimate
from lora_core.training.estimate import speed as estimate_speed
from lora_core.training.estimate.memory import Memory


def lines(config: TrainConfig, plan: Plan, compute: Compute) -> list[str]:
    """What is trained, and what it will need as far as that is known by now."""
    epochs = f"{plan.epochs:.0f}" if plan.epochs >= 10 else f"{plan.epochs:.1f}"
    pictures = f"{len(plan.training)} pictures" + (f" and {len(plan.validation)} held out" if plan.validation else "")
    sizes = _counted(len(plan.buckets), "size")
    return [f"{pictures} in {sizes}; {plan.steps} steps, which are {epochs} epochs", *_needs(config, plan, compute)]


def _needs(config: TrainConfig, plan: Plan, compute: Compute) -> list[str]:
    try:
        shapes = shapes_of(config.pretrained_model_name_or_path)
    except UserError:  # told when the model is loaded
        return []
    told = []
    config = memory.fitted(config, shapes, compute, plan.buckets)
    found = estimate.memory(config, shapes, plan.buckets, compute.dtype.itemsize)
    if found:
        told.append(_memory(found, shapes, compute))
    if disk := estimate.disk(config, plan, shapes):
        told.append(f"disk up to {memory_size(disk.total)}")
    pace = estimate_speed.run_seconds(config, shapes, compute, plan)
    if pace:
        told.append(f"about {duration(pace.seconds)}" + (" (rough: no run was timed here yet)" if pace.rough else ""))
    elif compute.device.type != "cpu":
        told.append("time known after the first steps")
    return [f"needs {', '.join(told)}"] if told else []


def _memory(found: Memory, shapes: Shapes, compute: Compute) -> str:
    bound = "" if found.exact and shapes.certain else "at most " if shapes.certain else "probably "
    if compute.device.type == "cpu":
        return f"{bound}{memory_size(found.total + found.host)} of memory beside the program's own"
    card = found.smallest_card_gb
    return f"{bound}{memory_size(found.total)} of memory" + (f" (fits cards from {card} GB)" if card else "")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
