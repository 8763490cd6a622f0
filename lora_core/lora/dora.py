"""DoRA (Liu et al. 2024, arXiv:2402.09353) with magnitudes over the input axis, as LyCORIS has it by default.

PEFT normalises each output of a layer. No webui computes that: A1111 and InvokeAI know the input axis only, ComfyUI and
Forge divide by the norm of the frozen weight instead of the adapted one, and a LoRA trained so draws other pictures
there. Over the input axis, all of them compute the weight that was trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from lora_core.lora.adapter import Adapter
from lora_core.models.frozen_layers import weight_of

Layer = nn.Linear | nn.Conv2d


class AdaptedLayer(Protocol):
    """What PEFT makes of a layer; the mappings are by adapter name."""

    lora_A: Mapping[str, Layer]
    lora_B: Mapping[str, Layer]
    lora_magnitude_vector: nn.ModuleDict
    scaling: dict[str, float]

    def get_base_layer(self) -> Layer: ...


class InputDora(nn.Module):
    """Takes the place of PEFT's magnitude vector: weight' = (weight + scale * up @ down) * magnitude / norm.

    `weight` is the magnitude, [1, in] for a linear layer and [1, in, 1, 1] for a convolution, fp32.
    """

    over_inputs = True

    def __init__(self, layer: AdaptedLayer, adapter: str) -> None:
        super().__init__()
        merged = _merged(layer.get_base_layer(), layer.lora_A[adapter], layer.lora_B[adapter], layer.scaling[adapter])
        self.weight = nn.Parameter(_norm(merged))

    def forward(self, x: Tensor, *, lora_A: Layer, lora_B: Layer, scaling: float, base_layer: Layer, **_: object) -> Tensor:
        """What the adapter adds to the base layer's answer; x: [..., in] or [B, in, H, W]."""
        # The norm is a constant to the gradient (section 4.3 of the paper).
        norm = _norm(_merged(base_layer, lora_A, lora_B, scaling)).detach()
        factor = self.weight / norm
        if x.dim() != self.weight.dim():  # [B, tokens, in] against [1, in]
            factor = factor.reshape(-1)
        factor = factor.to(x.dtype)
        weight = weight_of(base_layer, x.dtype)
        if isinstance(base_layer, nn.Conv2d):
            moved: Tensor = base_layer._conv_forward(x * (factor - 1), weight, None)
        else:
            moved = functional.linear(x * (factor - 1), weight)
        adapted: Tensor = lora_B(lora_A(x * factor))
        return moved + adapted * scaling


def normalise_over_inputs(model: nn.Module, adapter: str = "default") -> None:
    """Replace every magnitude vector PEFT made in a model; do it before the optimizer is given the parameters."""
    for layer in adapted_layers(model, adapter).values():
        if adapter in layer.lora_magnitude_vector:
            layer.lora_magnitude_vector[adapter] = InputDora(layer, adapter)


def weight_change(value: Adapter, base: Layer) -> Tensor:
    """What a DoRA over inputs adds to a weight, [out, in] or [out, in, kh, kw], fp32.

    value: laid out as the layer is (`shapes.fit`).
    """
    assert value.dora_scale is not None
    weight = weight_of(base, torch.float32)
    change = value.up.float().flatten(1) @ value.down.float().flatten(1) * value.scale
    merged = weight + change.to(weight.device).reshape(weight.shape)
    return merged * (value.dora_scale.to(weight.device, torch.float32) / _norm(merged)) - weight


def adapted_layers(model: nn.Module, adapter: str = "default") -> dict[str, AdaptedLayer]:
    """Every layer PEFT gave this adapter, by path; those of LoHa and LoKr have no lora_A and lora_B."""
    modules: dict[str, nn.Module] = dict(model.named_modules())
    return {path: cast(AdaptedLayer, layer) for path, layer in modules.items() if adapter in _adapters(layer)}


def _adapters(layer: nn.Module) -> tuple[str, ...]:
    # Told by what it has: importing peft for its class takes seconds, and reading a file needs none of it.
    found = (getattr(layer, name, None) for name in ("lora_A", "hada_w1_a", "lokr_w1", "lokr_w1_a"))
    return tuple(name for each in found if isinstance(each, nn.ModuleDict | nn.ParameterDict) for name in each)


def _merged(base: Layer, down: Layer, up: Layer, scaling: float) -> Tensor:
    """The adapted weight in fp32, [out, in] or [out, in, kh, kw]; without a graph, as only its norm is wanted."""
    with torch.no_grad():
        change = up.weight.float().flatten(1) @ down.weight.float().flatten(1)
        merged: Tensor = weight_of(base, torch.float32) + scaling * change.reshape(base.weight.shape)
        return merged


def _norm(weight: Tensor) -> Tensor:
    """The length of each input's column: [1, in] or [1, in, 1, 1]."""
    others = [axis for axis in range(weight.dim()) if axis != 1]
    length: Tensor = torch.linalg.vector_norm(weight, dim=others, keepdim=True)
    return length
