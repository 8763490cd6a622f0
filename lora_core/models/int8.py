"""The frozen UNet in 8 bits: half the memory of 16 bits, of convolutions as well as of linear layers.

Each output of a layer has a scale of its own, and its weights are whole numbers of it (symmetric int8; Jacob et al. 2018,
Dettmers et al. 2022). They are cast to the format of the layer's input when it is used, and never kept so
(frozen_layers.py). Norms, biases, and the first and last convolution, which hold little, stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType

import torch
from torch import Tensor, nn

from lora_core.models import frozen_layers
from lora_core.models.frozen_layers import SCALE

_LEVELS = 127
_SMALL = 4096  # numbers; a layer of fewer is not worth a cast


def quantize(unet: nn.Module) -> None:
    """Let a frozen UNet hold its weights in 8 bits; one on the meta device as soon as they are read."""
    kept = {id(getattr(unet, name, None)) for name in ("conv_in", "conv_out")}
    for module in unet.modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and id(module) not in kept and module.weight.numel() >= _SMALL:
            _quantize(module)


def is_quantized(layer: nn.Module) -> bool:
    return layer._buffers.get(SCALE) is not None


def bytes_of(unet: nn.Module) -> int:
    """What the weights in 8 bits take, with their scales."""
    layers = [module for module in unet.modules() if is_quantized(module)]
    return sum(tensor.nbytes for layer in layers for tensor in (layer.weight, layer.scale))  # type: ignore[misc]


def taken(layer: nn.Module, name: str, weight: Tensor) -> Tensor:
    """A weight read for a layer as the layer holds it; `name` ends with the parameter's."""
    if not (is_quantized(layer) and name.endswith("weight")):
        return weight
    whole, scale = quantized(weight)
    layer.register_buffer(SCALE, scale, persistent=False)
    return whole


def quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight [out, ...] as int8 and the scales [out] in fp32; no number is off by more than half a scale."""
    rows = weight.detach().flatten(1).float()
    scale = (rows.abs().amax(1) / _LEVELS).clamp_min(torch.finfo(torch.float32).tiny)
    return (rows / scale[:, None]).round_().to(torch.int8).reshape(weight.shape), scale


def _quantize(layer: nn.Linear | nn.Conv2d) -> None:
    if layer.weight.is_meta:
        weight = torch.empty_like(layer.weight, dtype=torch.int8)
        scale = torch.empty(len(weight), dtype=torch.float32, device=weight.device)
    else:
        weight, scale = quantized(layer.weight)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.register_buffer(SCALE, scale, persistent=False)
    forward: Callable[..., Tensor] = frozen_layers.conv if isinstance(layer, nn.Conv2d) else frozen_layers.linear
    layer.forward = MethodType(forward, layer)  # type: ignore[method-assign]
