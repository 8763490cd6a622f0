"""Optimizers and learning-rate schedules: two dicts of name -> builder."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from lora_core.config import TrainConfig
from lora_core.training.optim.adafactor import Adafactor
from lora_core.training.optim.cpu_offload import CPUOffloadOptimizer
from lora_core.training.optim.prodigy import Prodigy

ParameterGroups = list[dict[str, Any]]  # each with "params" and "lr"


def adamw(groups: ParameterGroups, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019), fused into one kernel where torch has one for the device."""
    fused = can_be_fused(groups[0]["params"][0].device.type, config.mixed_precision)
    return torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=fused)


def can_be_fused(device: str, mixed_precision: str) -> bool:
    """Whether torch has AdamW in one kernel for a device.

    On Apple's some releases of it ignored that a scaled loss had overflowed (found_inf) and stepped into NaN; a loss may be
    scaled in all formats but fp32.
    """
    return device in ("cpu", "cuda", "xpu") or (device == "mps" and mixed_precision == "no")


def adafactor(groups: ParameterGroups, config: TrainConfig) -> torch.optim.Optimizer:
    """Adafactor (Shazeer & Stern 2018) with a rate of our own: second moments as rows and columns, little memory."""
    return Adafactor(groups, weight_decay=config.weight_decay)


def prodigy(groups: ParameterGroups, config: TrainConfig) -> torch.optim.Optimizer:
    """Prodigy (Mishchenko & Defazio 2023): finds the rate, which the groups' are factors of."""
    return Prodigy(groups, weight_decay=config.weight_decay)


OPTIMIZERS: dict[str, Callable[[ParameterGroups, TrainConfig], torch.optim.Optimizer]] = {
    "adamw": adamw,
    "adafactor": adafactor,
    "prodigy": prodigy,
}

# Share of the learning rate at a progress of 0..1 through the steps after warm-up; those of `diffusers.get_scheduler`.
SCHEDULES: dict[str, Callable[[float, TrainConfig], float]] = {
    "constant": lambda progress, config: 1.0,
    "constant_with_warmup": lambda progress, config: 1.0,
    "linear": lambda progress, config: 1.0 - progress,
    "cosine": lambda progress, config: 0.5 * (1 + math.cos(math.pi * progress)),
    "cosine_with_restarts": lambda progress, config: 0.5
    * (1 + math.cos(math.pi * (config.lr_scheduler_num_cycles * progress % 1.0))),
    "polynomial": lambda progress, config: (1.0 - progress) ** config.lr_scheduler_power,
}


def build_optimizer(groups: ParameterGroups, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer that is asked for, where its state is asked to be."""

    def chosen(groups: ParameterGroups) -> torch.optim.Optimizer:
        return OPTIMIZERS[config.optimizer](groups, config)

    return CPUOffloadOptimizer(groups, chosen) if config.optimizer_on_host else chosen(groups)


def lr_factor(config: TrainConfig, step: int) -> float:
    """The share of the learning rate at optimizer step `step` (from 0): warm-up, then the schedule; pure."""
    warmup = config.warmup_steps
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, config.max_train_steps - warmup)
    return SCHEDULES[config.lr_scheduler](min(1.0, progress), config)


def set_learning_rates(optimizer: torch.optim.Optimizer, config: TrainConfig, step: int) -> float:
    """Set each group's rate for this step; returns the first group's (the UNet's, where it is trained)."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * lr_factor(config, step)
    return float(optimizer.param_groups[0]["lr"])
