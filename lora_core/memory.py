"""How much memory of a graphics card a training takes: worked out from sizes, not measured, so "about" is said of it."""

from __future__ import annotations

import torch
from torch import nn

from lora_core.config import TrainConfig
from lora_core.families import BaseModel
from lora_core.precision import Compute, devices, smallest_for

DRIVER_BYTES = 700 * 2**20  # what a card's driver and libraries take before any tensor
ADAPTER_BYTES = 16  # of an adapter's number: itself, its gradient and Adam's two moments, all in fp32


def needed_bytes(model: BaseModel, config: TrainConfig, dtype: torch.dtype) -> int:
    """Of the device, while stepping on a model in `dtype` that has no adapters yet."""
    element = torch.finfo(dtype).bits // 8
    texts = list(model.text_encoders.values()) if config.train_text_encoder else []
    frozen: int = sum(parameter.numel() for module in (model.unet, *texts) for parameter in module.parameters())
    adapters = _adapter_numbers(model.unet, config.target_modules, config.lora_rank)
    adapters += sum(_adapter_numbers(encoder, model.family.text_targets, config.lora_rank) for encoder in texts)
    kept = model.family.kept_bytes[int(config.gradient_checkpointing)] * element // 2
    pixels = config.resolution**2 * config.train_batch_size
    return DRIVER_BYTES + frozen * element + adapters * ADAPTER_BYTES + kept * pixels


def notice(model: BaseModel, config: TrainConfig, compute: Compute) -> str:
    """What to say when the chosen card is too small, with the smallest one here that is not; empty when it is enough."""
    here = devices()
    chosen = [device for device in here if device.bytes and device.name == str(compute.device)]
    needed = needed_bytes(model, config, compute.dtype)
    if not chosen or chosen[0].bytes >= needed:
        return ""
    other = smallest_for(needed, here)
    advice = f"{other} can do it: --device {other.name}." if other else "--gradient_checkpointing takes less."
    return f"This training needs about {needed / 2**30:.1f} GB, more than {chosen[0]} has. {advice}"


def _adapter_numbers(module: nn.Module, targets: tuple[str, ...], rank: int) -> int:
    count = 0
    for name, layer in module.named_modules():
        if name.endswith(tuple(f".{target}" for target in targets)) and isinstance(layer, nn.Linear | nn.Conv2d):
            count += rank * (layer.weight[0].numel() + layer.weight.shape[0])
    return count
