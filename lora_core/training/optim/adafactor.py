"""Adafactor (Shazeer & Stern 2018, arXiv 1804.04235) with a rate of its own: second moments as rows and columns.

A LoRA has hundreds of small matrices of a few shapes, and one after the other they would be 28,000 kernels a step for SDXL.
Those of one shape are computed together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

EPSILON, CLIP, DECAY = 1e-30, 1.0, -0.8  # epsilon 1, d, and the exponent of beta 2 (section 7.2) as the authors have them
AT_ONCE = 64  # parameters whose in-between results are in memory at a time


class Adafactor(torch.optim.Optimizer):
    """Algorithm 4 without relative steps: a group's "lr" is the step's length; numbers and state of transformers' class.

    State of a parameter [..., rows, columns]: step, exp_avg_sq_row [..., rows], exp_avg_sq_col [..., columns]; of one with
    fewer dimensions step and exp_avg_sq.
    """

    def __init__(self, groups: list[dict[str, Any]], weight_decay: float = 0.0):
        super().__init__(groups, {"lr": 0.0, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step over all parameters with a gradient."""
        assert closure is None
        for group in self.param_groups:
            for parameters in self._alike(group["params"]):
                updates = self._updates(parameters)
                length = updates.flatten(1).norm(2, dim=1) / math.sqrt(parameters[0].numel())
                updates.div_((length / CLIP).clamp_(min=1.0).view(-1, *(1,) * parameters[0].dim())).mul_(group["lr"])
                if group["weight_decay"]:
                    torch._foreach_mul_(parameters, 1 - group["weight_decay"] * group["lr"])
                torch._foreach_sub_(parameters, list(updates.unbind()))

    def _alike(self, parameters: list[Tensor]) -> Iterator[list[Tensor]]:
        """Those with a gradient, as many of one shape and number of steps as are computed at once."""
        kinds: dict[tuple[torch.Size, int], list[Tensor]] = {}
        for parameter in parameters:
            if parameter.grad is not None:
                kinds.setdefault((parameter.shape, self.state[parameter].get("step", 0)), []).append(parameter)
        for alike in kinds.values():
            yield from (alike[start : start + AT_ONCE] for start in range(0, len(alike), AT_ONCE))

    def _updates(self, parameters: list[Tensor]) -> Tensor:
        """The gradients over the roots of their second moments, [N, ...], with the moments brought up to date."""
        gradients = torch.stack([parameter.grad for parameter in parameters if parameter.grad is not None])
        states = [self.state[parameter] for parameter in parameters]
        for state in states:
            state["step"] = state.get("step", 0) + 1
        new = math.pow(states[0]["step"], DECAY)  # 1 - beta 2
        squares = gradients.square().add_(EPSILON)
        if gradients.dim() < 3:
            return gradients.mul_(_moved(states, "exp_avg_sq", squares, new).rsqrt_())
        rows = _moved(states, "exp_avg_sq_row", squares.mean(-1), new)
        columns = _moved(states, "exp_avg_sq_col", squares.mean(-2), new)
        rows = rows.div_(rows.mean(-1, keepdim=True)).rsqrt_()
        return gradients.mul_(rows.unsqueeze(-1)).mul_(columns.rsqrt_().unsqueeze(-2))


def _moved(states: list[dict[str, Any]], name: str, values: Tensor, share: float) -> Tensor:
    """The moving averages of that name, [N, ...], moved to `values` by a share of the way; 0 where there are none yet."""
    for state, value in zip(states, values.unbind(), strict=True):
        if name not in state:
            state[name] = torch.zeros_like(value)
    kept = [state[name] for state in states]
    moved = torch.stack(kept).mul_(1 - share).add_(values, alpha=share)
    torch._foreach_copy_(kept, list(moved.unbind()))
    return moved
