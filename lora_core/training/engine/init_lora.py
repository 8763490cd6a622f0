"""A training that begins with what another LoRA has learned: its values in fresh adapters."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from lora_core.config import TrainConfig
from lora_core.errors import UserError
from lora_core.lora.adapter import Adapter, PlainLora
from lora_core.lora.adapter_settings import read_to_go_on
from lora_core.lora.convert import file_in
from lora_core.lora.dora import AdaptedLayer, InputDora, weight_change
from lora_core.lora.file import tensors_hash
from lora_core.lora.metadata import Ancestor, prediction_of
from lora_core.lora.peft_layers import named_layers
from lora_core.lora.resize import Factors, factors, nearest
from lora_core.lora.shapes import UnknownFamilyError, family_of, fit
from lora_core.messages import Message
from lora_core.models.families.base import BaseModel
from lora_core.sampling.pipeline import check_base
from lora_core.training.engine.adapters import ADAPTER

_LEAST = 5e-4  # of the change that is lost: less is rounding, and not told


@dataclass(frozen=True)
class InitLora:
    """A LoRA that fits the base model, each layer as that has it."""

    ancestor: Ancestor
    lora: PlainLora


def read_for(model: BaseModel, path: Path) -> InitLora:
    """The LoRA in a file.

    Raises:
        UserError: not a LoRA that a training can begin with, or one for another base model.
    """
    path = file_in(path.expanduser())
    lora, metadata = read_to_go_on(path)
    family = model.family.name
    with suppress(UnknownFamilyError):  # then the layers alone tell whether it fits
        family = family_of(lora, metadata)
    if family == model.family.name:
        lora = {module: value for module, value in fit(lora, family).items() if isinstance(value, Adapter)}
    check_base(model, path, lora, family)
    predicted = prediction_of(metadata)
    if predicted and predicted != model.prediction_type:
        words = {"epsilon": Message("training.noise"), "v_prediction": Message("training.velocity")}
        raise UserError(
            "training.init_other_prediction", file=path.name, predicted=words[predicted], base=model.name,
            other=words[model.prediction_type],
        )  # fmt: skip
    return InitLora(Ancestor(path.name, tensors_hash(path)), lora)


def put_on(model: BaseModel, init: InitLora, config: TrainConfig) -> Message | None:
    """Put its values into the adapters of a model, and tell what they cannot hold; layers it has not begin at zero."""
    layers = {
        module: layer
        for component, part in model.adapted().items()
        for module, layer in named_layers(part, component, ADAPTER).items()
    }
    kept = whole = 0.0
    for module, value in init.lora.items():
        layer = layers.get(module)
        found = _factors(value, layer)
        whole += found.whole
        if layer is not None:
            kept += found.kept
            _write(layer, found, value)
    return _told(init, config, len(init.lora.keys() - layers.keys()), (max(0.0, 1 - kept / whole)) ** 0.5)


def _factors(value: Adapter, layer: AdaptedLayer | None) -> Factors:
    if layer is None:
        return factors(value, value.rank)
    rank = layer.lora_A[ADAPTER].weight.shape[0]
    if value.dora_scale is not None and ADAPTER not in layer.lora_magnitude_vector:
        return nearest(weight_change(value, layer.get_base_layer()), rank)
    return factors(value, rank)


@torch.no_grad()
def _write(layer: AdaptedLayer, found: Factors, value: Adapter) -> None:
    """The first ranks are the file's; what is left of the adapter stays as it was made, and changes nothing yet."""
    down, up, rank = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight, found.down.shape[0]
    ratio = found.scale / layer.scaling[ADAPTER]
    down[:rank] = found.down.reshape(rank, *down.shape[1:])
    up[:, :rank] = (found.up if ratio == 1 else found.up * ratio).reshape(-1, rank, *up.shape[2:])
    if ADAPTER in layer.lora_magnitude_vector:
        weight = cast(Tensor, layer.lora_magnitude_vector[ADAPTER].weight)
        own = InputDora(layer, ADAPTER).weight if value.dora_scale is None else value.dora_scale
        weight.copy_(own.reshape(weight.shape))


def _told(init: InitLora, config: TrainConfig, left_out: int, error: float) -> Message | None:
    if error < _LEAST and not left_out:
        return None
    left = Message("training.init_left_out", count=left_out) if left_out else ""
    kind, rank, file = config.adapter, config.lora_rank, init.ancestor.name
    return Message("training.init_lost", file=file, kind=kind, rank=rank, error=error, left=left)
