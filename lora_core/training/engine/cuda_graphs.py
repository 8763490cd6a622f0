"""A training step on a card as one launch instead of thousands (CUDA graphs).

A step of Stable Diffusion 1.5 starts some 3,800 kernels, one after the other from Python; on a fast card, at one picture
at a time, that takes longer than the arithmetic. Captured once for each size of its inputs, forward and backward pass
are replayed by a single call, on the same memory. What is not the same as without is not used: the first graph of a size
answers the very micro-batch that was just computed in the plain way, and is compared; where anything fails, the plain way
goes on.

All graphs share a pool of memory, which is as large as the largest of them needs; what they answer is copied out of it.
A plain computation beside it needs that much once more, so graphs are dropped where the card has no room for both.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lora_core.config import TrainConfig
from lora_core.errors import first_line
from lora_core.events import Emit, Warned
from lora_core.messages import Message, plain
from lora_core.models.device import in_turn
from lora_core.models.families.base import BaseModel
from lora_core.models.weights import free_device_memory
from lora_core.training.engine.stepper import LossOf, MicroBatch

CLOSE = 0.02  # of the length of the answer: two runs of the same kernels in 16 bit may add up in another order
MOST = 32  # graphs at once, for each holds its list of kernels in the card's memory
TRIES, WORTH = 64, 4  # captures, each as slow as a plain step; after so many, each must have been replayed so often
TOO_MANY_SIZES = Message("training.too_many_sizes")
Answers = list[Tensor | None]
Function = Callable[[MicroBatch, Tensor], Answers]  # of a micro-batch, and of what its loss is scaled by in fp16
Question = tuple[Function, MicroBatch, Tensor, Sequence[Tensor]]  # the last: what all answers but the first are added to
Found = tuple[Tensor, list[bool]]  # the first answer, and which of the others there are


def can_capture(config: TrainConfig, device: torch.device) -> bool:
    """Whether graphs are on; what "auto" comes to has been settled (`estimate.graphs`).

    Dropout is left out, because its draws would not be those of the plain way.
    """
    return config.cuda_graphs == "on" and device.type == "cuda" and not config.lora_dropout


class CudaGraphStepper:
    """Micro-batches one after the other, each replayed from a graph once one of its size has been computed plainly."""

    def __init__(self, model: BaseModel, emit: Emit):
        self._emit = emit
        self._owners = [
            (table, name)
            for module in model.adapted().values()
            for owner in module.modules()
            for table in (owner._parameters, owner._buffers)
            for name, tensor in table.items()
            if tensor is not None
        ]
        self._where: list[int] = []
        self._sums: list[Tensor] = []  # the gradients, in one place for all graphs
        self._graphs: dict[Hashable, _Graph] = {}  # the one that was used last is the last
        self._proven: dict[Hashable, _Size] = {}
        self._pool: tuple[Any, Any] | None = None  # its handle, and the stream to capture on
        self._pool_bytes = 0
        self._captures = self._replays = 0
        self._is_off = False

    def forward(self, function: Callable[[MicroBatch], Tensor], batch: MicroBatch) -> Tensor:
        def answer(asked: MicroBatch, scale: Tensor) -> Answers:
            return [function(asked)]

        return self._ask("forward", (answer, batch, torch.ones_like(batch.weight_B[0]), []))[0]

    def backward(
        self, loss_of: LossOf, batches: Sequence[MicroBatch], trained: Sequence[torch.nn.Parameter],
        scaler: torch.amp.GradScaler,
    ) -> Tensor:  # fmt: skip
        def gradients(asked: MicroBatch, scale: Tensor) -> Answers:
            loss_B = loss_of(asked)
            return [loss_B.detach(), *torch.autograd.grad(loss_B.sum() * scale, trained, allow_unused=True)]

        self._sums = self._sums or [torch.zeros_like(parameter) for parameter in trained]
        pairs = list(zip(trained, self._sums, strict=True))
        if stale := [total for parameter, total in pairs if parameter.grad is None]:
            torch._foreach_zero_(stale)
        losses = []
        for batch in batches:
            # The scale is an input: the scaler may put another tensor in the place of its own.
            scale = scaler.scale(torch.ones_like(batch.weight_B[0]))
            loss_B, is_there = self._ask("backward", (gradients, batch, scale, self._sums))
            losses.append(loss_B)
            for (parameter, total), there in zip(pairs, is_there, strict=True):
                parameter.grad = total if there else parameter.grad
        return torch.cat(losses)

    def release(self) -> None:
        """Give back all memory that is kept from step to step: what comes now wants it for itself."""
        self._sums = []
        self._drop_graphs()

    def _drop_graphs(self) -> None:
        """With their memory: what torch kept of it is asked for by nobody, and is room that all others lack."""
        self._graphs.clear()
        if self._pool:
            self._pool, self._pool_bytes = None, 0
            free_device_memory()

    def _ask(self, kind: str, question: Question) -> Found:
        batch = question[1]
        if self._is_off:
            return _plainly(*question)
        if (where := [_address(table[name]) for table, name in self._owners]) != self._where:
            self._drop_graphs()  # the weights were moved, and the graphs would read what now stands in their old place
            self._where = where
        key = (kind, *((name, rows.shape, rows.dtype) for name, rows in batch.tensors().items()))
        if key in self._graphs:
            self._replays += 1
            graph = self._graphs[key] = self._graphs.pop(key)
            return graph(*question)
        self._make_room(batch, self._proven.get(key))
        if key in self._proven:
            return self._capture(key, question) or _plainly(*question)
        return self._prove(key, question)

    def _make_room(self, batch: MicroBatch, known: _Size | None) -> None:
        """For another graph; and if its size is new, for a plain computation, of which nobody knows yet what it needs."""
        while len(self._graphs) >= MOST:
            del self._graphs[next(iter(self._graphs))]
        if known:
            needed = max(0, known.pool_bytes - self._pool_bytes) + known.kernel_bytes
        else:
            needed = 2 * (self._pool_bytes + sum(self._proven[key].kernel_bytes for key in self._graphs))
        if _free_bytes(batch) < needed:
            self._drop_graphs()

    def _prove(self, key: Hashable, question: Question) -> Found:
        """Answer in the plain way, and again by a graph, which is kept if it comes to the same.

        The two never are on the card at once: what is compared waits in the computer's own memory.
        """
        sums = question[3]
        before = _on_cpu(sums)
        expected = _plainly(*question)
        wanted = [expected[0].cpu(), *_on_cpu(sums)]
        _put(before, sums)
        if found := self._capture(key, question):
            if found[1] == expected[1] and _alike([found[0].cpu(), *_on_cpu(sums)], wanted, before):
                return found
            self._proven.pop(key)
            self._give_up(Message("training.answers_differ"))
        _put(wanted[1:], sums)
        return expected

    def _capture(self, key: Hashable, question: Question) -> Found | None:
        """Answer by a new graph; None where that fails, and then there are none from here on."""
        self._captures += 1
        if self._captures > max(TRIES, self._replays // WORTH):
            self._give_up(TOO_MANY_SIZES)
            return None
        found, why = None, ""
        try:
            found = self._captured(key, question)
        except Exception as error:  # noqa: BLE001  whatever it is, there is another way
            why = first_line(error).rstrip(".")
        if why:  # not within `except`, where the error holds what the capture has left
            self._give_up(plain(why))
        return found

    def _captured(self, key: Hashable, question: Question) -> Found:
        device = question[1].weight_B.device
        with in_turn:  # what others took meanwhile would count as the graph's
            free, reserved = _free_bytes(question[1]), torch.cuda.memory_reserved(device)
            self._pool = self._pool or (torch.cuda.graph_pool_handle(), torch.cuda.Stream(device))
            graph = _Graph(question, *self._pool)
            found = graph(*question)
            taken = max(0, free - _free_bytes(question[1]))
            more = min(taken, max(0, torch.cuda.memory_reserved(device) - reserved))
        self._pool_bytes += more
        self._graphs[key], self._proven[key] = graph, _Size(self._pool_bytes, taken - more)
        return found

    def _give_up(self, why: Message) -> None:
        self._is_off = True
        self._drop_graphs()
        self._emit(Warned(Message("training.no_graphs", why=why)))


@dataclass(frozen=True)
class _Size:
    """What a graph of one size takes of the card, in bytes: the pool is no larger, the list of kernels is its own."""

    pool_bytes: int
    kernel_bytes: int


class _Graph:
    """A question, captured: its micro-batch has a place in memory for good."""

    def __init__(self, question: Question, pool: Any, stream: Any):
        function, batch, scale, sums = question
        self._batch, self._scale = batch.each(torch.clone), scale.clone()
        self._graph = torch.cuda.CUDAGraph()
        with _capturing(self._graph, pool, stream, batch.weight_B.device):
            self._answer, self._is_there = _plainly(function, self._batch, self._scale, sums)

    def __call__(self, function: Function, batch: MicroBatch, scale: Tensor, sums: Sequence[Tensor]) -> Found:
        given = batch.tensors()
        for name, rows in self._batch.tensors().items():
            rows.copy_(given[name])
        self._scale.copy_(scale)
        answer = torch.empty_like(self._answer)  # first: where it finds no room, no gradients have been added yet
        self._graph.replay()
        return answer.copy_(self._answer), self._is_there  # the next replay of any graph may write over its own


@contextlib.contextmanager
def _capturing(graph: Any, pool: Any, stream: Any, device: torch.device) -> Iterator[None]:
    """As `torch.cuda.graph`, which in torch 2.13 leaves this thread on the capture's stream where it fails.

    "thread_local": of other threads only what waits for the whole card spoils it, and the window asks for free memory.
    """
    torch.cuda.synchronize(device)
    with torch.cuda.stream(stream):
        try:
            graph.capture_begin(pool, capture_error_mode="thread_local")
            yield
        except BaseException:
            with contextlib.suppress(Exception):  # what was first is told
                _end(graph, pool, device)
            raise
        _end(graph, pool, device)


def _end(graph: Any, pool: Any, device: torch.device) -> None:
    """End the capture. Where the runtime refuses, torch 2.13.0 gives the pool back with no graph (`CUDAGraph::reset`)."""
    try:
        graph.capture_end()
    except Exception:
        try:
            graph.pool()  # it was captured, and there was no memory left to make it ready: the pool goes with it
        except RuntimeError:
            # Later ones do it themselves (pytorch/pytorch#190348), and so may AMD's own 2.13.0: twice is worse than never.
            if torch.__version__.startswith("2.13.0") and not torch.version.hip:
                _give_back(pool, device)
        raise


def _give_back(pool: Any, device: torch.device) -> None:
    """What a spoilt capture has of a pool: cuBLAS's workspaces within it, and its place among those that use it."""
    with contextlib.suppress(RuntimeError):
        torch._C._cuda_clearCublasWorkspaces()
        torch._C._cuda_releasePool(device.index, pool)
        torch._C._cuda_endAllocateToPool(device.index, pool)  # fails where that is done: in all that had begun


def _plainly(function: Function, batch: MicroBatch, scale: Tensor, sums: Sequence[Tensor]) -> Found:
    answer, *others = function(batch, scale)
    assert answer is not None
    if pairs := [(total, each) for total, each in zip(sums, others, strict=True) if each is not None]:
        torch._foreach_add_(*map(list, zip(*pairs, strict=True)))  # in few launches
    return answer, [other is not None for other in others]


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _free_bytes(batch: MicroBatch) -> int:
    """Of the card's memory, with what torch keeps for later use."""
    free_device_memory()
    return int(torch.cuda.mem_get_info(batch.weight_B.device)[0])


def _on_cpu(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [each.to("cpu", copy=True) for each in tensors]


def _put(values: Sequence[Tensor], into: Sequence[Tensor]) -> None:
    for value, place in zip(values, into, strict=True):
        place.copy_(value)


def _alike(found: Sequence[Tensor], wanted: Sequence[Tensor], before: Sequence[Tensor]) -> bool:
    """Whether all answers, taken together, are near; where numbers overflow, nothing can be told.

    before: what stood in the places that all answers but the first were added to.
    """
    missed = torch.stack([(one.float() - other.float()).norm() for one, other in zip(found, wanted, strict=True)]).norm()
    added = [wanted[0], *(other - start for other, start in zip(wanted[1:], before, strict=True))]
    length = torch.stack([each.float().norm() for each in added]).norm()
    return bool(missed <= CLOSE * length) or not bool(torch.isfinite(length))
