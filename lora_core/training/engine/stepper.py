"""How the gradients of a step are computed: one micro-batch after the other here, else by CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor

from lora_core.models.families.base import Tensors

LossOf = Callable[["MicroBatch"], Tensor]  # of every picture of a micro-batch


@dataclass(frozen=True)
class MicroBatch:
    """Noisy pictures of one size, and what the model is to answer; B of everything.

    text_inputs: what the captions are to the model (Prompts.text_inputs).
    weight_B: of each picture's mean error in the loss; they sum up to what the micro-batch weighs.
    huber_c_B: where the error counts linearly instead of squared; None: always squared.
    """

    noisy_latents_BCHW: Tensor
    timesteps_B: Tensor
    text_inputs: Tensors
    target_BCHW: Tensor
    weight_B: Tensor
    huber_c_B: Tensor | None = None

    def to(self, device: torch.device) -> MicroBatch:
        """On the device; to a card it travels on its own, and nobody waits until it is there."""
        if device.type != "cuda":
            return self.each(lambda rows: rows.to(device))
        return self.each(lambda rows: rows.pin_memory().to(device, non_blocking=True))

    def each(self, change: Callable[[Tensor], Tensor]) -> MicroBatch:
        """With every tensor changed."""
        text_inputs = {name: change(rows) for name, rows in self.text_inputs.items()}
        return MicroBatch(**{name: change(rows) for name, rows in self._own().items()}, text_inputs=text_inputs)

    def tensors(self) -> Tensors:
        """All that it has, by name."""
        return {**self._own(), **self.text_inputs}

    def _own(self) -> Tensors:
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: rows for name, rows in found.items() if isinstance(rows, Tensor)}


class Stepper(Protocol):
    """Forward and backward passes of a training, however they are computed."""

    def forward(self, function: Callable[[MicroBatch], Tensor], batch: MicroBatch) -> Tensor:
        """What the model answers to a micro-batch, where no gradients are asked for."""
        ...

    def backward(
        self, loss_of: LossOf, batches: Sequence[MicroBatch], trained: Sequence[torch.nn.Parameter],
        scaler: torch.amp.GradScaler,
    ) -> Tensor:  # fmt: skip
        """Add the scaled gradients of all the losses to the trained; returns the losses, one for each picture."""
        ...

    def release(self) -> None:
        """Give back the memory that is kept for the next step: other work comes first."""
        ...


class PlainStepper:
    """One micro-batch after the other, for two at once take twice the memory."""

    def forward(self, function: Callable[[MicroBatch], Tensor], batch: MicroBatch) -> Tensor:
        return function(batch)

    def backward(
        self, loss_of: LossOf, batches: Sequence[MicroBatch], trained: Sequence[torch.nn.Parameter],
        scaler: torch.amp.GradScaler,
    ) -> Tensor:  # fmt: skip
        losses = []
        for batch in batches:
            loss_B = loss_of(batch)
            scaler.scale(loss_B.sum()).backward()
            losses.append(loss_B.detach())
        return torch.cat(losses)

    def release(self) -> None:
        """Nothing is kept."""
