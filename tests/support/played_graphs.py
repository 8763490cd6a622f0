"""CUDA graphs played on a processor: what is captured is a list of operations on fixed memory, and a replay is no Python.

As on a card, capturing computes nothing that can be read, a replay sees what its inputs hold by then and nothing else of
what Python did, and reading a number while capturing is an error. What becomes of a pool is played as torch 2.13.0 has it
(CUDAGraph.cpp): each capture takes it once more, and a captured graph gives it back, with cuBLAS's workspaces in it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lora_core.training.engine import cuda_graphs

READS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero"}


@dataclass
class Played:
    """replays: of each graph that was made. free: bytes of the card.

    Each graph takes `taken` of it, for its list of kernels; the first one takes `pool` besides, which the others share, and
    which torch keeps after the last one until its memory is given back. most: graphs that lived at once.
    """

    replays: list[int] = field(default_factory=list)
    alive: weakref.WeakSet[PlayedGraph] = field(default_factory=weakref.WeakSet)
    free: int = 2**33
    taken: int = 2**20
    pool: int = 0
    most: int = 0
    held: int = 0  # bytes of pools, as torch reserves them
    uses: int = 0  # of the pool, each by a capture; it is given back when it has none
    has_workspace: bool = False  # in the pool, which is not given back with it
    streams: list[object] = field(default_factory=lambda: ["the stream of all"])  # that this thread is on, the last one
    is_recording: bool = False
    begins: bool = True  # False: the runtime refuses to begin a capture
    ends: bool = True  # False: it refuses to end one
    is_mended: bool = False  # as torch is after 2.13.0: every graph gives back what its capture took

    def left(self) -> int:
        return self.free - self.taken * len(self.alive) - self.held

    def captured(self, graph: PlayedGraph) -> None:
        self.alive.add(graph)
        self.most = max(self.most, len(self.alive))
        if self.left() < 0:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    def release(self) -> None:
        self.uses -= 1
        assert self.uses >= 0, "it is in use by none, as torch says too"

    def give_back(self) -> None:
        """What torch keeps of no use."""
        assert not self.is_recording, "captures_underway.empty() INTERNAL ASSERT FAILED"
        if not self.uses and not self.has_workspace:
            self.held = 0


class PlayedGraph:
    """Stands for `torch.cuda.CUDAGraph`."""

    def __init__(self, played: Played) -> None:
        self.operations: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], list[Tensor]]] = []
        self.played, self.number = played, len(played.replays)
        self.capture: _Capture | None = None
        self.has_begun = self.has_ended = False
        played.replays.append(0)

    def __del__(self) -> None:
        if self.has_ended or (self.has_begun and self.played.is_mended):
            self.played.has_workspace = False
            self.played.release()

    def capture_begin(self, pool: object, capture_error_mode: str) -> None:
        assert (self.played.streams[-1], pool, capture_error_mode) == ("a stream", "a pool", "thread_local")
        self.has_begun = True
        self.played.uses += 1
        self.played.held = max(self.played.held, self.played.pool)
        self.played.is_recording = True
        if not self.played.begins:
            raise torch.AcceleratorError("CUDA error: operation not permitted")
        self.played.has_workspace = True
        self.capture = _Capture(self)
        self.capture.__enter__()

    def capture_end(self) -> None:
        assert self.played.streams[-1] == "a stream"
        if self.capture is None:
            raise RuntimeError("capture_end() called before capture_begin().")
        self.capture.__exit__(None, None, None)
        self.capture = None
        self.played.is_recording = False
        if not self.played.ends:
            raise torch.AcceleratorError("CUDA error: operation failed due to a previous error during capture")
        self.has_ended = True
        self.played.captured(self)

    def pool(self) -> object:
        if not self.has_ended:
            raise RuntimeError("Called CUDAGraph::pool() without a preceding successful capture.")
        return "a pool"

    def replay(self) -> None:
        self.played.replays[self.number] += 1
        with torch.no_grad():
            for operation, values, named, places in self.operations:
                found = [each for each in tree_leaves(operation(*values, **named)) if isinstance(each, Tensor)]
                for place, each in zip(places, found, strict=True):
                    if place is not each and place.data_ptr() != each.data_ptr():
                        place.copy_(each)


class _Capture(TorchDispatchMode):
    """What happens between the beginning and the end of a capture."""

    def __init__(self, graph: PlayedGraph):
        super().__init__()
        self.graph = graph
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}  # what is written over, and what stood there

    def __torch_dispatch__(self, operation: Any, types: Any, values: Any = (), named: Any = None) -> Any:
        if operation._schema.name in READS:
            raise RuntimeError("operation not permitted when stream is capturing")
        if operation._schema.is_mutable:
            for each in tree_leaves(values):
                if isinstance(each, Tensor):
                    self.kept.setdefault(each.data_ptr(), (each, each.clone()))
        found = operation(*values, **(named or {}))
        places = [each for each in tree_leaves(found) if isinstance(each, Tensor)]
        self.graph.operations.append((operation, values, named or {}, places))
        return found

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        with torch.no_grad():
            for place, value in self.kept.values():
                place.copy_(value)
        for operation, _, _, places in self.graph.operations:
            if not operation.is_view and not operation._schema.is_mutable:
                for place in places:
                    if place.is_floating_point():
                        place.detach().fill_(torch.nan)


def play(monkeypatch: pytest.MonkeyPatch) -> Played:
    """Let torch have graphs from here on."""
    played = Played()

    @contextmanager
    def on_stream(stream: object) -> Iterator[None]:
        played.streams.append(stream)
        try:
            yield
        finally:
            played.streams.pop()

    def clear_workspaces() -> None:
        played.has_workspace = False

    def end_allocation(device: int | None, pool: object) -> None:
        if not played.is_recording:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        played.is_recording = False

    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: PlayedGraph(played))
    monkeypatch.setattr(torch.cuda, "stream", on_stream)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", clear_workspaces, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end_allocation, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", lambda device, pool: played.release(), raising=False)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "a pool")
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: "a stream")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (played.left(), 2**33))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: played.held)
    monkeypatch.setattr(cuda_graphs, "free_device_memory", played.give_back)
    return played
