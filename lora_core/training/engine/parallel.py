"""Parts of a micro-batch side by side, for a small model on a processor.

In a small model an operation is over before a second core has woken up, so sharing each operation makes a step slower
(models/device.use_cores). Sharing the pictures does not: each thread takes its part from forward to backward alone, and
the gradients are added up in the order of the parts, so the sum does not depend on who was first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import TypeVar

import torch
from torch import Tensor

from lora_core.config import TrainConfig
from lora_core.models.device import free_cores
from lora_core.models.parallel import shares
from lora_core.system.distributed import ProcessGroup
from lora_core.training.engine.stepper import Answers, LossOf, MicroBatch, gradients_of

T = TypeVar("T")


def threads_for(unet: torch.nn.Module, config: TrainConfig, device: torch.device, group: ProcessGroup) -> int:
    """How many threads train this model: one where dropout draws in an order of its own, or a group has the cores."""
    is_alone = group.size > 1 or config.lora_dropout > 0
    return 1 if is_alone else free_cores(unet, device)


class ThreadedStepper:
    """Parts of the micro-batches by `threads` threads at the same time.

    The threads are the same for every step, for new ones would take their first memory anew each time; they end with
    the stepper.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, "stepper")

    def forward(self, function: Callable[[MicroBatch], Tensor], batch: MicroBatch) -> Tensor:
        return torch.cat(self.map(function, self.parts([batch])))

    def backward(
        self, loss_of: LossOf, batches: Sequence[MicroBatch], trained: Sequence[torch.nn.Parameter],
        scaler: torch.amp.GradScaler,
    ) -> Tensor:  # fmt: skip
        def gradients(part: MicroBatch) -> Answers:
            return gradients_of(loss_of(part), trained, scaler.scale(torch.ones(())))

        losses = []
        for loss_B, *found in self.map(gradients, self.parts(batches)):
            assert loss_B is not None
            losses.append(loss_B)
            for parameter, gradient in zip(trained, found, strict=True):
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        return torch.cat(losses)

    def release(self) -> None:
        """Nothing is kept but the threads."""

    def parts(self, batches: Sequence[MicroBatch]) -> list[MicroBatch]:
        """The micro-batches as they are dealt out, the pictures in the same order.

        Those of one size are joined first, for each part costs something whatever its size.
        """
        parts = []
        for _, alike in groupby(batches, lambda batch: batch.noisy_latents_BCHW.shape[1:]):
            joined = _joined(list(alike))
            parts += [joined.part(start, end) for start, end in shares(len(joined), self.threads)]
        return parts

    def map(self, function: Callable[[MicroBatch], T], parts: Sequence[MicroBatch]) -> list[T]:
        """What the function makes of each part, at the same time."""
        if len(parts) == 1:
            return [function(part) for part in parts]
        return list(self._pool.map(function, parts))


def _joined(batches: Sequence[MicroBatch]) -> MicroBatch:
    if len(batches) == 1:
        return batches[0]
    tables = [batch.tensors() for batch in batches]
    joined = {name: torch.cat([table[name] for table in tables]) for name in tables[0]}
    text_inputs = {name: joined[name] for name in batches[0].text_inputs}
    return MicroBatch(text_inputs=text_inputs, **{n: rows for n, rows in joined.items() if n not in text_inputs})
