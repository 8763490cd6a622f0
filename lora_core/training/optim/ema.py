"""An exponential moving average of the adapters (EMA; Polyak & Juditsky 1992), which validation, samples and files are of.

The average forgets what single steps did to and fro, as a falling rate does. It lives in the computer's memory: a card
gives it nothing but a copy of the adapters after each step, which is taken in when the next step is under way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from lora_core.training.optim.cpu_offload import cpu_buffers, fetch, put


class EMA:
    """The average of named parameters, begun where they begin; with a decay of 0, none."""

    def __init__(self, parameters: Mapping[str, Tensor] | None = None, decay: float = 0.0):
        found = dict(parameters or {}) if decay else {}
        self._decay, self._names, self._parameters = decay, list(found), list(found.values())
        is_on_card = bool(found) and self._parameters[0].device.type != "cpu"
        self._arriving = cpu_buffers(self._parameters) if is_on_card else []
        self._due: tuple[float, Callable[[], None]] | None = None
        self._averages = [torch.empty_like(p, device="cpu", requires_grad=False) for p in self._parameters]
        self.restore({})

    def update(self, step: int) -> None:
        """Take in the parameters as they are after so many steps.

        The first steps count more, or the average would be that of the start for long: the decay is at most
        (1 + step) / (10 + step), as in TensorFlow's ExponentialMovingAverage.
        """
        if not self._parameters:
            return
        self._settle()
        weight = 1 - min(self._decay, (1 + step) / (10 + step))
        if self._arriving:
            self._due = weight, fetch(self._parameters, self._arriving)
        else:
            self._take(weight, self._parameters)

    def tensors(self) -> dict[str, Tensor]:
        """The average as it stands, by name; not copies."""
        self._settle()
        return dict(zip(self._names, self._averages, strict=True))

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Go on with a checkpoint's average; where it has none, begin anew with the parameters as they are."""
        self._due = None
        put([saved.get(n, p.detach()) for n, p in zip(self._names, self._parameters, strict=True)], self._averages)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the parameters are the average; afterwards they are what they were, bit by bit."""
        own = [parameter.detach().to("cpu", copy=True) for parameter in self._parameters]
        self._settle()
        try:
            put(self._averages, self._parameters)
            yield
        finally:
            put(own, self._parameters)

    def _settle(self) -> None:
        """Take in what is still on its way."""
        if self._due:
            weight, wait = self._due
            self._due = None
            wait()
            self._take(weight, self._arriving)

    @torch.no_grad()
    def _take(self, weight: float, values: list[Tensor]) -> None:
        torch._foreach_lerp_(self._averages, values, weight)
