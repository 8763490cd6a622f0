"""How a training step is cut up: on a card lesson after lesson, on a processor parts of them side by side.

In a small model an operation is over before a second core has woken up, so sharing each operation makes a step slower
(models/device.use_cores). Sharing the pictures does not: each thread takes its part from forward to backward alone, and the
gradients are added up in the order of the parts, so the sum does not depend on who was first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import groupby
from typing import TypeVar

import torch
from torch import Tensor

from lora_core.config import TrainConfig
from lora_core.models.device import free_cores
from lora_core.models.families.base import Tensors
from lora_core.models.parallel import shares
from lora_core.system.distributed import ProcessGroup

T = TypeVar("T")
Answers = list[Tensor | None]


@dataclass(frozen=True)
class Lesson:
    """Noisy pictures of one size, and what the model is to answer; B of everything.

    words: what the captions are to the model (Prompts.words).
    weight_B: of each picture's mean squared error in the loss; they sum up to what the lesson weighs.
    """

    noisy_latents_BCHW: Tensor
    timesteps_B: Tensor
    words: Tensors
    target_BCHW: Tensor
    weight_B: Tensor

    def __len__(self) -> int:
        return len(self.weight_B)

    def part(self, start: int, end: int) -> Lesson:
        return self.each(lambda rows: rows[start:end])

    def to(self, device: torch.device) -> Lesson:
        """On the device; to a card it travels on its own, and nobody waits until it is there."""
        if device.type != "cuda":
            return self.each(lambda rows: rows.to(device))
        return self.each(lambda rows: rows.pin_memory().to(device, non_blocking=True))

    def each(self, change: Callable[[Tensor], Tensor]) -> Lesson:
        """With every tensor changed."""
        words = {name: change(rows) for name, rows in self.words.items()}
        return Lesson(
            change(self.noisy_latents_BCHW), change(self.timesteps_B), words, change(self.target_BCHW),
            change(self.weight_B),
        )  # fmt: skip

    def tensors(self) -> Tensors:
        """All of them, by name."""
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "words"}
        return {**own, **self.words}


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
            parts += [joined.part(start, end) for start, end in shares(len(joined), self.count)]
        return parts

    def each(self, function: Callable[[Lesson], T], parts: Sequence[Lesson]) -> list[T]:
        """What the function makes of each part, at the same time where there are several lanes."""
        if self.count == 1 or len(parts) == 1:
            return [function(part) for part in parts]
        return list(self._threads.map(function, parts))

    def answers(self, function: Callable[[Lesson], Tensor], parts: Sequence[Lesson]) -> list[Tensor]:
        """What the model answers to each part, where no gradients are asked for."""
        return self.each(function, parts)

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

        def gradients(part: Lesson) -> Answers:
            return gradients_of(loss_of(part), trained, scaler.scale(torch.ones(())))

        losses = []
        for loss_B, *found in self.each(gradients, self.parts(lessons)):
            assert loss_B is not None
            losses.append(loss_B)
            for parameter, gradient in zip(trained, found, strict=True):
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        return torch.cat(losses)

    def rest(self) -> None:
        """Give back what is kept for the next step: other work comes first."""


def lanes(unet: torch.nn.Module, config: TrainConfig, device: torch.device, group: ProcessGroup) -> Lanes:
    """For the training of a model: alone where dropout draws in an order of its own, or a group has the cores."""
    is_alone = group.size > 1 or config.lora_dropout > 0
    return Lanes() if is_alone else Lanes(free_cores(unet, device))


def gradients_of(loss_B: Tensor, trained: Sequence[torch.nn.Parameter], scale: Tensor) -> Answers:
    """The losses, then the gradient of their scaled sum by each of the trained; None by what it does not depend on."""
    return [loss_B.detach(), *torch.autograd.grad(loss_B.sum() * scale, trained, allow_unused=True)]


def add_to(sums: Sequence[Tensor], found: Answers) -> None:
    """Add to each what was found for it, if anything, in few launches."""
    pairs = [(total, each) for total, each in zip(sums, found, strict=True) if each is not None]
    if pairs:
        torch._foreach_add_(*map(list, zip(*pairs, strict=True)))


def _backward(loss_B: Tensor, scaler: torch.amp.GradScaler) -> Tensor:
    scaler.scale(loss_B.sum()).backward()
    return loss_B.detach()


def _joined(lessons: Sequence[Lesson]) -> Lesson:
    if len(lessons) == 1:
        return lessons[0]
    tables = [lesson.tensors() for lesson in lessons]
    joined = {name: torch.cat([table[name] for table in tables]) for name in tables[0]}
    words = {name: joined[name] for name in lessons[0].words}
    return Lesson(words=words, **{name: rows for name, rows in joined.items() if name not in words})
