"""What to say of a graphics card that is too small for a training; how much it takes is counted (estimate.py)."""

from __future__ import annotations

from collections.abc import Collection

from lora_core import estimate, windows
from lora_core.config import TrainConfig
from lora_core.estimate import Remedy, Size, Verdict
from lora_core.estimate_shapes import of_model
from lora_core.families import BaseModel
from lora_core.precision import Compute, devices, smallest_for


def notice(model: BaseModel, config: TrainConfig, compute: Compute, sizes: Collection[Size] = ()) -> str:
    """What to say when the chosen card is too small: the smallest one here that is not, or what to change; empty when it
    is enough, or when what the training takes was never counted. `sizes`: the pictures', in pixels.
    """
    here = devices()
    chosen = [device for device in here if device.bytes and device.name == str(compute.device)]
    found = estimate.fits(config, of_model(model), chosen[0], sizes, compute.dtype.itemsize) if chosen else None
    if found is None or found.fits:
        return ""
    other = smallest_for(found.needed, here)
    advice = f"{other} can do it: --device {other.name}." if other else _advice(found)
    return f"This training needs about {found.needed / 2**30:.1f} GB, more than {chosen[0]} has. {advice}"


def page_file_notice(model: BaseModel, config: TrainConfig, compute: Compute, sizes: Collection[Size] = ()) -> str:
    """What to say before Windows' page file turns out too small; empty where it will do, or the need was never counted."""
    found = estimate.memory(config, of_model(model), sizes, compute.dtype.itemsize)
    return windows.page_file_notice(found.total + estimate.RESERVE_BYTES) if found else ""


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
