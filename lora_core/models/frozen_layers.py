"""Layers whose weights need no gradient: they keep neither input nor weight for their backward pass.

PyTorch keeps the input of every convolution, though only the gradient of its weight needs it. The weight may be held in
8 bits (int8.py): then it is cast again on the way back, for a cast one that is kept would save nothing.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.grad
from torch import Tensor, nn
from torch.nn import functional as F

SCALE = "scale"  # the buffer beside an 8-bit weight: what each output's whole numbers are multiples of; [out], fp32


def weight_of(layer: nn.Linear | nn.Conv2d, dtype: torch.dtype) -> Tensor:
    """A frozen layer's weight in this format; of an 8-bit layer, a new tensor each time.

    The scale is multiplied in fp32: in fp16 it would be subnormal for rows of small weights and off by a percent.
    """
    weight, scale = layer.weight, layer._buffers.get(SCALE)
    if scale is None:
        return weight.to(dtype)
    scale = scale.reshape(-1, *(1,) * (weight.dim() - 1))
    if weight.is_cpu:  # torch would hold both factors in fp32 beside the product there
        return weight.float().mul_(scale).to(dtype)
    # One kernel that reads a byte and writes a number, and no other tensor of this size.
    return torch.mul(weight, scale, out=torch.empty_like(weight, dtype=dtype))


def conv(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """What a frozen convolution answers; x: [B, in, H, W]."""
    return cast(Tensor, _Conv.apply(x, layer))  # type: ignore[no-untyped-call]


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """What a frozen linear layer answers; x: [..., in]."""
    return cast(Tensor, _Linear.apply(x, layer))  # type: ignore[no-untyped-call]


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: nn.Conv2d) -> Tensor:
        # Not even the weight is saved: checkpointing computes again up to the last tensor that is, and so stops earlier.
        ctx.shape, ctx.layer = x.shape, layer
        return cast(Tensor, layer._conv_forward(x, weight_of(layer, x.dtype), layer.bias))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        layer = ctx.layer
        found: Tensor = torch.nn.grad.conv2d_input(
            ctx.shape, weight_of(layer, gradient.dtype), gradient, layer.stride, layer.padding, layer.dilation, layer.groups
        )
        return found, None


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: nn.Linear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, weight_of(layer, x.dtype), layer.bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ weight_of(ctx.layer, gradient.dtype), None
