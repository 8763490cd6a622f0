"""A frozen UNet that keeps less for its backward pass. Same arithmetic, same gradients, a third less memory or more.

PyTorch keeps the input of every convolution, though a frozen weight needs no gradient (models/frozen_layers); and an
activation's input beside its output, though one is soon computed from the other. PEFT copies each adapter's input to
fp32 and keeps the copies.
None of that is needed: here an adapter is cast to its input's format instead (Micikevicius et al. 2018: master weights
in fp32, products in 16 bit), and what is cheap is computed again on the way back (Chen et al. 2016).
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any, cast

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.resnet import ResnetBlock2D
from peft.tuners.lora import LoraLayer
from peft.tuners.lycoris_utils import LycorisLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn import functional as F

from lora_core.models import frozen_layers


def cast_adapters(module: nn.Module, adapter: str) -> None:
    """Let every plain adapter compute in the format of its input; DoRA's need fp32 for their norms and stay as they are."""
    for layer in module.modules():
        if isinstance(layer, LoraLayer) and adapter in layer.lora_A and adapter not in layer.lora_variant:
            _replace(layer, _adapted)
        elif isinstance(layer, LycorisLayer):
            _replace(layer, _changed)


def keep_less(unet: nn.Module) -> None:
    """Let resnets, GEGLUs and frozen convolutions keep what gradients need and no more. Adapters must be on already."""
    adapted = {id(layer.get_base_layer()) for layer in unet.modules() if isinstance(layer, BaseTunerLayer)}
    for module in unet.modules():
        if isinstance(module, ResnetBlock2D) and _is_plain(module):
            _replace(module, _resnet)
        elif isinstance(module, GEGLU):
            _replace(module, _geglu)
        # An adapter keeps its input anyway, and the convolution below it keeps the same tensor. In 8 bits it keeps none.
        elif isinstance(module, nn.Conv2d) and id(module) not in adapted and not module.weight.requires_grad:
            _replace(module, frozen_layers.conv)


def _replace(module: nn.Module, forward: Callable[..., Tensor]) -> None:
    module.forward = MethodType(forward, module)


def _adapted(layer: Any, x: Tensor, *_: Any, **__: Any) -> Tensor:
    """W x + (alpha / rank) B A x (Hu et al. 2021), x: [..., in] or [B, in, H, W]."""
    result: Tensor = layer.base_layer(x)
    if layer.disable_adapters:
        return result
    (name,) = layer.active_adapters
    down, up = layer.lora_A[name], layer.lora_B[name]
    hidden = _apply(down, layer.lora_dropout[name](x))
    if layer.scaling[name] != 1:  # between the two, where it costs least: what comes after is as large as the output
        hidden = hidden * layer.scaling[name]
    adapted: Tensor = result + _apply(up, hidden)
    return adapted


def _changed(layer: Any, x: Tensor, *_: Any, **__: Any) -> Tensor:
    """W x + dW x of LoHa and LoKr, x: [..., in] or [B, in, H, W]. Two products: dW would be lost in a W of 16 bits.

    PEFT's own draws a number for a dropout that is off, and none may be drawn here but by step and seed.
    """
    result: Tensor = layer.base_layer(x)
    if layer.disable_adapters:
        return result
    (name,) = layer.active_adapters
    change, base = layer.get_delta_weight(name).to(x.dtype), layer.get_base_layer()
    moved = base._conv_forward(x, change, None) if isinstance(base, nn.Conv2d) else F.linear(x, change)
    adapted: Tensor = result + moved
    return adapted


def _apply(layer: nn.Linear | nn.Conv2d, x: Tensor) -> Tensor:
    weight = layer.weight.to(x.dtype)
    return layer._conv_forward(x, weight, None) if isinstance(layer, nn.Conv2d) else F.linear(x, weight)


def _is_plain(block: ResnetBlock2D) -> bool:
    """The kind Stable Diffusion is made of, of which diffusers knows many more."""
    resizes = block.upsample is not None or block.downsample is not None
    return not resizes and block.time_embedding_norm == "default" and isinstance(block.nonlinearity, nn.SiLU)


def _resnet(block: Any, input_tensor: Tensor, temb: Tensor | None, *_: Any, **__: Any) -> Tensor:
    """ResnetBlock2D.forward of diffusers, keeping two tensors of its size instead of six; input_tensor: [B, C, H, W]."""
    hidden = block.conv1(_norm_silu(block.norm1, input_tensor))
    if block.time_emb_proj is not None:
        temb = temb if block.skip_time_act else block.nonlinearity(temb)
        hidden = hidden + block.time_emb_proj(temb)[:, :, None, None]
    hidden = block.conv2(block.dropout(_norm_silu(block.norm2, hidden)))
    skip = input_tensor if block.conv_shortcut is None else block.conv_shortcut(input_tensor)
    result: Tensor = skip + hidden
    return result if block.output_scale_factor == 1.0 else result / block.output_scale_factor


def _geglu(layer: Any, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    """GEGLU (Shazeer 2020), keeping the projection alone."""
    return _again(lambda projected: _gated(*projected.chunk(2, dim=-1)), layer.proj(hidden_states))


def _gated(hidden: Tensor, gate: Tensor) -> Tensor:
    return hidden * F.gelu(gate)


def _norm_silu(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    return _again(lambda x: F.silu(norm(x)), x)


def _again(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return cast(Tensor, _Again.apply(x, function))  # type: ignore[no-untyped-call]


class _Again(torch.autograd.Function):
    """A function of one tensor whose inner steps are not kept but computed again; it must have no trained weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(x)
        return function(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            (result,) = torch.autograd.grad(ctx.function(x), x, gradient)
        return result, None
