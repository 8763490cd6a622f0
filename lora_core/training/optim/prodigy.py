"""Prodigy (Mishchenko & Defazio 2023, arXiv 2306.06101): Adam that finds its own learning rate.

What a rate has to know is how far the solution is from where the training began. Prodigy holds a lower bound of that
distance, d, and raises it as the steps show that it is too low.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

FIRST_D = 1e-6  # far below any useful rate, so that it is raised and never has to fall
AT_ONCE = 64  # parameters whose in-between results are in memory at a time


class Prodigy(torch.optim.Optimizer):
    """Algorithm 4 (the Adam form) with decoupled weight decay; a group's "lr" is the factor gamma, 1 is meant.

    r and s are divided by (1 - sqrt(beta2)) and by d_0 squared, which both fall out of their ratio: they would be too
    small for fp32. As in the authors' `safeguard_warmup`, s is summed without gamma, so that a warm-up of the rate makes
    the estimate smaller, not larger; as in their `use_bias_correction`, gamma is corrected as Adam's rate is (Kingma & Ba
    2015), which forgets less of the base model (docs/log.md). No number leaves the device in a step: d is a
    tensor, in the first parameter's state.
    """

    def __init__(
        self, groups: list[dict[str, Any]], weight_decay: float = 0.0, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ):  # fmt: skip
        super().__init__(groups, {"lr": 1.0, "weight_decay": weight_decay, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step over all parameters with a gradient."""
        assert closure is None
        parts = list(self._parts())
        if not parts:
            return
        shared = self._of(self.param_groups[0]["params"][0])
        if "d" not in shared:
            shared["d"], shared["r"] = (parts[0][1][0].new_full((), value) for value in (FIRST_D, 0.0))
        shared["steps"] = shared.get("steps", 0) + 1
        beta1, beta2 = self.param_groups[0]["betas"]
        d, gamma = shared["d"].clone(), math.sqrt(1 - beta2 ** shared["steps"]) / (1 - beta1 ** shared["steps"])
        shared["r"].mul_(math.sqrt(beta2))
        lengths = [self._learn(group, parameters, d, gamma * group["lr"], shared["r"]) for group, parameters in parts]
        estimate = shared["r"] / torch.stack(lengths).sum()
        # Where no gradient was ever more than zero, the estimate is 0/0; what is no number otherwise is told by the loss.
        shared["d"].copy_(torch.where(shared["r"] == 0, d, torch.maximum(d, estimate)))
        for group, parameters in parts:
            self._move(group, parameters, d, gamma * group["lr"])

    def _parts(self) -> Iterator[tuple[dict[str, Any], list[Tensor]]]:
        for group in self.param_groups:
            ready = [parameter for parameter in group["params"] if parameter.grad is not None]
            yield from ((group, ready[start : start + AT_ONCE]) for start in range(0, len(ready), AT_ONCE))

    def _of(self, parameter: Tensor) -> dict[str, Any]:
        """What is kept of a parameter; from its first step on also where it began, x_0."""
        held: dict[str, Any] = self.state[parameter]
        if "x_0" not in held and parameter.grad is not None:
            held |= {name: torch.zeros_like(parameter) for name in ("m", "v", "s")}
            held["x_0"] = parameter.detach().clone()
        return held

    def _learn(self, group: dict[str, Any], parameters: list[Tensor], d: Tensor, gamma: float, r: Tensor) -> Tensor:
        """Moments and r with the new gradients; returns the length of s, the sum of its magnitudes."""
        beta1, beta2 = group["betas"]
        m, v, s, x_0 = ([self._of(p)[name] for p in parameters] for name in ("m", "v", "s", "x_0"))
        gradients = [p.grad for p in parameters if p.grad is not None]
        ways = torch._foreach_sub(x_0, parameters)
        products = [torch.dot(g.flatten(), way.flatten()) for g, way in zip(gradients, ways, strict=True)]
        weight = d.div(FIRST_D).square()
        r.add_(torch.stack(products).sum() * weight * gamma)
        torch._foreach_mul_(s, math.sqrt(beta2))
        torch._foreach_add_(s, list(torch._foreach_mul(gradients, weight)))
        scaled = torch._foreach_mul(gradients, d)
        torch._foreach_lerp_(m, scaled, 1 - beta1)
        torch._foreach_mul_(v, beta2)
        torch._foreach_addcmul_(v, scaled, scaled, 1 - beta2)
        return torch.stack(torch._foreach_norm(s, 1)).sum()

    def _move(self, group: dict[str, Any], parameters: list[Tensor], d: Tensor, gamma: float) -> None:
        m, v = ([self._of(p)[name] for p in parameters] for name in ("m", "v"))
        rate = d * gamma
        steps = torch._foreach_sqrt(v)
        torch._foreach_add_(steps, d * group["eps"])
        steps = torch._foreach_div(m, steps)
        torch._foreach_mul_(steps, rate)
        torch._foreach_mul_(parameters, 1 - rate * group["weight_decay"])
        torch._foreach_sub_(parameters, steps)
