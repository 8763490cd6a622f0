"""Adapters on a frozen base model (LoRA, Hu et al. 2021, and its kin), by PEFT."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from peft import inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.utils.checkpoint import checkpoint as recompute

from lora_core.config import BLOCKS, CONV_TARGETS, TrainConfig
from lora_core.errors import UserError
from lora_core.lora import peft_layers
from lora_core.lora.adapter import Lora
from lora_core.lora.dora import normalise_over_inputs
from lora_core.lora.peft_layers import from_peft, peft_config, scale_as_readers
from lora_core.models.families.base import BaseModel
from lora_core.training.engine import lean_activations
from lora_core.training.optim.build import ParameterGroups

ADAPTER = "default"


def attach(model: BaseModel, config: TrainConfig) -> None:
    """Put fp32 adapters, the same for the same seed, on the UNet and (if asked) on the text encoders.

    Raises:
        UserError: the model has none of the named layers.
    """
    torch.manual_seed(config.seed)
    if config.target_modules:
        left_out = "|".join(block for block in BLOCKS if block not in config.target_blocks)
        _inject(model.unet, config, config.target_modules, rf"(?:{left_out})_blocks?\..*" if left_out else "")
    if config.train_text_encoder:
        for encoder in model.text_encoders.values():
            _inject(encoder, config, model.family.text_targets)
    for module in model.adapted().values():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        lean_activations.cast_adapters(module, ADAPTER)
    if config.is_lean:
        lean_activations.keep_less(model.unet)


def checkpoint(model: BaseModel, config: TrainConfig) -> None:
    """Let the UNet's blocks compute again on the way back what they would keep (Chen et al. 2016), as many as asked.

    All of them free about as much memory for what they cost, so of each kind and size every so many are taken.
    """
    quarters = 4 if config.gradient_checkpointing else config.checkpointed_quarters
    if not quarters:
        return
    # Only dropout draws numbers, and nobody asks a card for the state of its generator while a graph is captured.
    again = partial(recompute, use_reentrant=False, preserve_rng_state=bool(config.lora_dropout))
    model.unet.enable_gradient_checkpointing(again)
    units = [module for module in model.unet.modules() if hasattr(module, "gradient_checkpointing")]
    units.sort(key=lambda unit: (type(unit).__name__, sum(parameter.numel() for parameter in unit.parameters())))
    for number, unit in enumerate(units):
        unit.gradient_checkpointing = (number + 1) * quarters // 4 > number * quarters // 4


def _inject(module: nn.Module, config: TrainConfig, targets: tuple[str, ...], left_out: str = "") -> None:
    """`left_out`: a pattern of whole names."""
    names = [name for name, _ in module.named_modules() if not (left_out and re.fullmatch(left_out, name))]
    if not any(name.endswith(f".{target}") for name in names for target in targets):
        raise UserError("training.no_such_layers", layers=list(targets))
    own = _strengths(config, targets, names)
    dropout = {"lora_dropout": config.lora_dropout} if config.lora_dropout else {}
    inject_adapter_in_model(
        peft_config(
            config.adapter, config.lora_rank, config.alpha, target_modules=list(targets), exclude_modules=left_out or None,
            rank_pattern={name: rank for name, (rank, _) in own.items()},
            alpha_pattern={name: alpha for name, (_, alpha) in own.items()}, **dropout,
        ),
        module,
        ADAPTER,
    )  # fmt: skip
    scale_as_readers(module, ADAPTER)
    if config.adapter == "dora":  # PEFT's own kind of DoRA is computed as it was trained by no webui
        normalise_over_inputs(module, ADAPTER)


def _strengths(config: TrainConfig, targets: tuple[str, ...], names: list[str]) -> dict[str, tuple[int, float]]:
    """Ranks and alphas other than the usual, by patterns of names, of which PEFT takes the first that fits."""
    convolutions = [target for target in CONV_TARGETS if target in targets]
    found = {
        **{rf"{block}_blocks?\..*\.{target}": config.strength(block, True) for block in BLOCKS for target in convolutions},
        **{rf"{block}_blocks?\..*": config.strength(block) for block in BLOCKS},
    }
    if not config.block_ranks:
        found = {target: config.conv for target in convolutions if config.conv != config.strength()}
    targeted = [name for name in names if name.endswith(tuple(f".{target}" for target in targets))]
    # It warns of patterns that fit nothing.
    return {pattern: of for pattern, of in found.items() if any(re.fullmatch(f"(?:.*\\.)?{pattern}", n) for n in targeted)}


def named_parameters(model: BaseModel) -> dict[str, nn.Parameter]:
    """Every trained parameter by "<component>.<name>", in a fixed order."""
    return {
        f"{component}.{name}": parameter
        for component, module in model.adapted().items()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def parameter_groups(model: BaseModel, config: TrainConfig) -> ParameterGroups:
    """One group for the UNet, one for the text encoders with a rate of their own."""
    parameters = named_parameters(model)
    unet = [p for name, p in parameters.items() if name.startswith("unet.")]
    text = [p for name, p in parameters.items() if not name.startswith("unet.")]
    rates = [(unet, config.learning_rate), (text, config.text_encoder_lr or config.learning_rate)]
    return [{"params": group, "lr": rate, "base_lr": rate} for group, rate in rates if group]


def extract(model: BaseModel) -> Lora:
    """The adapters as they stand, as values for a LoRA file."""
    lora: Lora = {}
    for component, module in model.adapted().items():
        if any(isinstance(m, BaseTunerLayer) for m in module.modules()):
            lora |= from_peft(module, component)
    return lora


def disabled(model: BaseModel) -> AbstractContextManager[None]:
    """Within the block the base model answers as if it had no adapters."""
    return peft_layers.disabled(layers(model))


def layers(model: BaseModel) -> list[Any]:
    """The adapted layers, the UNet's first."""
    return [m for module in model.adapted().values() for m in module.modules() if isinstance(m, BaseTunerLayer)]
