"""How a training step is cut up: on a card lesson after lesson, on a processor parts of them side by side.

In a small model an operation is over before a second core has woken up, so sharing each operation makes a step slower
(precision.use_cores). Sharing the pictures does not: each thread takes its part from forward to backward alone, and the
gradients are added up in the order of the parts, so the sum does not depend on who was first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import groupby, pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor

from lora_core.families import Frame

LEAST = 4  # pictures of a part: with fewer, what a part costs whatever its size outweighs them
T = TypeVar("T")


@dataclass(frozen=True)
class Lesson:
    """Noisy pictures of one size, and what the model is to answer; B of everything.

    weight_B: of each picture's mean squared error in the loss; they sum up to what the lesson weighs.
    """

    noisy_latents_BCHW: Tensor
    timesteps_B: Tensor
    captions: tuple[str, ...]
    frames: tuple[Frame, ...]
    target_BCHW: Tensor
    weight_B: Tensor

    def __len__(self) -> int:
        return len(self.captions)

    def part(self, start: int, end: int) -> Lesson:
        return Lesson(*(getattr(self, field.name)[start:end] for field in fields(self)))


@dataclass(frozen=True)
class Lanes:
    """`count` threads that compute at the same time; 1: this thread alone, one lesson after the other."""

    count: int = 1

    def parts(self, lessons: Sequence[Lesson]) -> list[Lesson]:
        """The lessons as they are to be computed, the pictures in the same order.

        Side by side, lessons of one size are joined first, for each part costs something whatever its size. Alone they
        stay apart, because two at once take twice the memory.
        """
        if self.count == 1:
            return list(lessons)
        parts = []
        for _, alike in groupby(lessons, lambda lesson: lesson.noisy_latents_BCHW.shape[1:]):
            joined = _joined(list(alike))
            parts += [joined.part(start, end) for start, end in _shares(len(joined), self.count)]
        return parts

    def each(self, function: Callable[[Lesson], T], parts: Sequence[Lesson]) -> list[T]:
        """What the function makes of each part, at the same time where there are several lanes."""
        if self.count == 1 or len(parts) == 1:
            return [function(part) for part in parts]
        return list(self._threads.map(function, parts))

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        """The same for every step, for new ones would take their first memory anew each time; they end with the lanes."""
        return ThreadPoolExecutor(self.count, "lane")

    def learn(
        self, loss_of: Callable[[Lesson], Tensor], lessons: Sequence[Lesson], trained: Sequence[torch.nn.Parameter],
        scaler: torch.amp.GradScaler,
    ) -> Tensor:  # fmt: skip
        """Add the scaled gradients of all the lessons' losses to the trained; returns the losses, one for each picture.

        loss_of: the loss of every picture of a part.
        """
        if self.count == 1:
            return torch.cat([_backward(loss_of(lesson), scaler) for lesson in lessons])

        def gradients(part: Lesson) -> tuple[Tensor, tuple[Tensor | None, ...]]:
            loss_B = loss_of(part)
            return loss_B.detach(), torch.autograd.grad(scaler.scale(loss_B.sum()), trained, allow_unused=True)

        losses = []
        for loss_B, found in self.each(gradients, self.parts(lessons)):
            losses.append(loss_B)
            for parameter, gradient in zip(trained, found, strict=True):
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        return torch.cat(losses)


@contextmanager
def divided(unet: Any, count: int) -> Iterator[None]:
    """Within the block the UNet answers large batches in parts, by `count` threads at the same time; without gradients."""
    if count == 1:
        yield
        return
    whole = unet.forward

    def forward(sample: Tensor, *arguments: Any, **named: Any) -> tuple[Tensor]:
        @torch.no_grad()
        def answer(edge: tuple[int, int]) -> Tensor:
            found = [_cut(value, len(sample), *edge) for value in (sample, *arguments)]
            answered: Tensor = whole(*found, **_cut(named, len(sample), *edge))[0]
            return answered

        return (torch.cat(list(pool.map(answer, _shares(len(sample), count)))),)

    with ThreadPoolExecutor(count, "lane") as pool:
        unet.forward = forward
        try:
            yield
        finally:
            unet.forward = whole


def _shares(pictures: int, count: int) -> list[tuple[int, int]]:
    """Start and end of up to `count` parts, as equal as can be, none below LEAST unless it is the only one."""
    parts = max(1, min(count, pictures // LEAST))
    return list(pairwise(pictures * part // parts for part in range(parts + 1)))


def _cut(value: Any, batch: int, start: int, end: int) -> Any:
    """The part of what belongs to a batch, row by row, and the rest as it is."""
    if isinstance(value, dict):
        return {name: _cut(each, batch, start, end) for name, each in value.items()}
    is_by_row = isinstance(value, Tensor) and value.dim() > 0 and len(value) == batch
    return value[start:end] if is_by_row else value


def _backward(loss_B: Tensor, scaler: torch.amp.GradScaler) -> Tensor:
    scaler.scale(loss_B.sum()).backward()
    return loss_B.detach()


def _joined(lessons: Sequence[Lesson]) -> Lesson:
    def together(name: str) -> Any:
        rows = [getattr(lesson, name) for lesson in lessons]
        return torch.cat(rows) if isinstance(rows[0], Tensor) else tuple(row for part in rows for row in part)

    return lessons[0] if len(lessons) == 1 else Lesson(*(together(field.name) for field in fields(Lesson)))
