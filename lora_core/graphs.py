"""A training step on a card as one launch instead of thousands (CUDA graphs).

A step of Stable Diffusion 1.5 starts some 3,800 kernels, one after the other from Python; on a fast card, at one picture
at a time, that takes longer than the arithmetic. Captured once for each size of its inputs, forward and backward pass
are replayed by a single call, on the same memory. What is not the same as without is not used: each capture answers the
very lesson that was just computed in the plain way, and is compared; where anything fails, the plain way goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from lora_core.config import TrainConfig
from lora_core.events import Emit, Warned
from lora_core.families import BaseModel
from lora_core.lanes import Answers, Lanes, Lesson, add_gradients, gradients_of

CLOSE = 0.02  # of the length of the answer: two runs of the same kernels in 16 bit may add up in another order
Function = Callable[[Lesson, Tensor], Answers]  # of a lesson, and of what its loss is scaled by in fp16
MOST = 16  # graphs at once, for each holds its list of kernels in the card's memory


def can_capture(config: TrainConfig, device: torch.device) -> bool:
    """Dropout is left out, because its draws would not be those of the plain way."""
    return config.cuda_graphs and device.type == "cuda" and not config.lora_dropout


class GraphLanes(Lanes):
    """Lessons one after the other, each replayed from a graph as soon as one of its size has been computed plainly."""

    def __init__(self, model: BaseModel, emit: Emit):
        super().__init__()
        self._emit = emit
        self._owners = [
            (table, name)
            for module in model.adapted().values()
            for owner in module.modules()
            for table in (owner._parameters, owner._buffers)
            for name, tensor in table.items()
            if tensor is not None
        ]
        self._graphs: dict[Hashable, _Graph] = {}
        self._where: list[int] = []
        self._pool: Any = None
        self._is_off = False

    def answers(self, function: Callable[[Lesson], Tensor], parts: Sequence[Lesson]) -> list[Tensor]:
        def answer(part: Lesson, scale: Tensor) -> Answers:
            return [function(part)]

        found = (self._ask("answer", answer, part, torch.ones_like(part.weight_B[0]))[0] for part in parts)
        return [answered.clone() for answered in found if answered is not None]  # before the next replay

    def learn(
        self, loss_of: Callable[[Lesson], Tensor], lessons: Sequence[Lesson], trained: Sequence[torch.nn.Parameter],
        scaler: torch.amp.GradScaler,
    ) -> Tensor:  # fmt: skip
        def gradients(part: Lesson, scale: Tensor) -> Answers:
            return gradients_of(loss_of(part), trained, scale)

        losses = []
        for lesson in lessons:
            # The scale is an input: the scaler may put another tensor in the place of its own.
            loss_B, *found = self._ask("learn", gradients, lesson, scaler.scale(torch.ones_like(lesson.weight_B[0])))
            assert loss_B is not None
            losses.append(loss_B.clone())  # the next replay writes over it, as over the gradients
            add_gradients(trained, found)
        return torch.cat(losses)

    def rest(self) -> None:
        """Give the memory back that the graphs keep for their activations: what comes now wants it for itself."""
        self._graphs.clear()
        self._pool = None

    def _ask(self, kind: str, function: Function, lesson: Lesson, scale: Tensor) -> Answers:
        if self._is_off:
            return function(lesson, scale)
        if (where := [_address(table[name]) for table, name in self._owners]) != self._where:
            self.rest()  # the weights were moved, and the graphs would read what now stands in their old place
            self._where = where
        key = (kind, *((name, rows.shape, rows.dtype) for name, rows in lesson.tensors().items()))
        if key in self._graphs:
            return self._graphs[key](lesson, scale)
        answers = function(lesson, scale)
        if len(self._graphs) < MOST:
            self._graphs |= self._captured(key, function, (lesson, scale), answers)
        return answers

    def _captured(
        self, key: Hashable, function: Function, inputs: tuple[Lesson, Tensor], wanted: Answers
    ) -> dict[Hashable, _Graph]:
        """A graph that answers as wanted; none where that fails, and then none from here on."""
        try:
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            graph = _Graph(function, *inputs, self._pool)
            if not _alike(graph(*inputs), wanted):
                raise RuntimeError("the answers differ")
            return {key: graph}
        except Exception as error:  # noqa: BLE001  whatever it is, there is another way
            self._is_off = True
            self.rest()
            why = str(error).partition("\n")[0].rstrip(".")
            self._emit(Warned(f"Steps take longer than they could, for capturing one as a graph failed: {why}."))
            return {}


class _Graph:
    """A function of a lesson, captured: its inputs and answers have a place in memory for good."""

    def __init__(self, function: Function, lesson: Lesson, scale: Tensor, pool: Any):
        self._lesson, self._scale = lesson.each(torch.clone), scale.clone()
        self._graph = torch.cuda.CUDAGraph()
        # Only this thread's calls may spoil the capture: the window's others ask the card for its memory meanwhile.
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self._answers = function(self._lesson, self._scale)

    def __call__(self, lesson: Lesson, scale: Tensor) -> Answers:
        """Good until the next call of any graph of the same pool."""
        given = lesson.tensors()
        for name, rows in self._lesson.tensors().items():
            rows.copy_(given[name])
        self._scale.copy_(scale)
        self._graph.replay()
        return self._answers


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _alike(found: Answers, wanted: Answers) -> bool:
    """Whether all answers are there and, taken together, near; where numbers overflow, nothing can be told."""
    if [one is None for one in found] != [one is None for one in wanted]:
        return False
    pairs = [(one, other) for one, other in zip(found, wanted, strict=True) if one is not None and other is not None]
    missed = torch.stack([(one.float() - other.float()).norm() for one, other in pairs]).norm()
    length = torch.stack([other.float().norm() for _, other in pairs]).norm()
    return bool(missed <= CLOSE * length) or not bool(torch.isfinite(length))
