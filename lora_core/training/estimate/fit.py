"""What to say of a graphics card that is too small for a training; how much it takes is counted (estimate.py)."""

from __future__ import annotations

from collections.abc import Collection

from lora_core.config import TrainConfig
from lora_core.models.architecture import Shapes, of_model
from lora_core.models.device import Compute, devices, smallest_for
from lora_core.models.families.base import BaseModel
from lora_core.system import windows
from lora_core.training.estimate import memory as estimate
from lora_core.training.estimate.memory import Remedy, Size, Verdict


def verdict(config: TrainConfig, shapes: Shapes, compute: Compute, sizes: Collection[Size] = ()) -> Verdict | None:
    """Whether a training fits the card it is to run on; None: it was never counted, or it runs on no card."""
    chosen = [device for device in devices() if device.bytes and device.name == str(compute.device)]
    return estimate.fits(config, shapes, chosen[0], sizes, compute.dtype.itemsize) if chosen else None


def fitted(config: TrainConfig, shapes: Shapes, compute: Compute, sizes: Collection[Size] = ()) -> TrainConfig:
    """The settings with what makes the training fit its card and costs nothing but time."""
    found = verdict(config, shapes, compute, sizes)
    return config.replace(**found.changes) if found and found.changes else config


def notice(model: BaseModel, config: TrainConfig, compute: Compute, sizes: Collection[Size] = ()) -> str:
    """What to say when the chosen card is too small: the smallest one here that is not, what is done about it, or what to
    change; empty when it is enough, or when what the training takes was never counted. `sizes`: the pictures', in pixels.
    """
    here = devices()
    found = verdict(config, of_model(model), compute, sizes)
    if found is None or (found.fits and not found.changes):
        return ""
    card = next(device for device in here if device.name == str(compute.device))
    other = smallest_for(found.whole, here)
    advice = f" {other} can do it{' as it is' if found.fits else ''}: --device {other.name}." if other else ""
    if found.fits:
        advice = f" So {_recomputed(found)}.{advice}"
    return f"This training needs about {found.whole / 2**30:.1f} GB, more than {card} has.{advice or ' ' + _advice(found)}"


def page_file_notice(model: BaseModel, config: TrainConfig, compute: Compute, sizes: Collection[Size] = ()) -> str:
    """What to say before Windows' page file turns out too small; empty where it will do, or the need was never counted."""
    found = estimate.memory(config, of_model(model), sizes, compute.dtype.itemsize)
    return windows.page_file_notice(found.total + found.host + estimate.RESERVE_BYTES) if found else ""


def _recomputed(found: Verdict) -> str:
    parts = {1: "a quarter of the blocks is", 2: "half of the blocks are", 3: "three quarters of the blocks are"}
    quarters = found.changes.get("checkpointed_quarters")
    rest = "all blocks are" if found.changes.get("gradient_checkpointing") else "what is cheap is"
    what = parts.get(quarters, rest) if isinstance(quarters, int) else rest
    more = f"{found.longer:.0%} more arithmetic, " if found.longer else ""
    return f"{what} computed again instead of kept: {found.needed / 2**30:.1f} GB, {more}the same LoRA"


def flags(remedy: Remedy) -> str:
    """The change as it is typed: "--gradient_checkpointing --train_batch_size 2"."""
    changes = remedy.changes.items()
    return " ".join(f"--{name}" if value is True else f"--{name} {value}" for name, value in changes)


def _advice(found: Verdict) -> str:
    if not found.remedies:
        return "No setting makes it small enough: take a smaller base model."
    last = found.remedies[-1]
    needed = last.memory.total + estimate.RESERVE_BYTES
    enough = "makes it fit" if needed <= found.has else "comes nearest"
    return f"{flags(last)} {enough}, with {needed / 2**30:.1f} GB."
