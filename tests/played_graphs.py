"""CUDA graphs played on a processor: what is captured is a list of operations on fixed memory, and a replay is no Python.

As on a card, capturing computes nothing that can be read, a replay sees what its inputs hold by then and nothing else of
what Python did, and reading a number while capturing is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero"}


class PlayedGraph:
    """Stands for `torch.cuda.CUDAGraph`."""

    made: ClassVar[list[PlayedGraph]] = []

    def __init__(self) -> None:
        self.operations: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], list[Tensor]]] = []
        self.replays = 0
        PlayedGraph.made.append(self)

    def replay(self) -> None:
        self.replays += 1
        with torch.no_grad():
            for operation, values, named, places in self.operations:
                found = [each for each in tree_leaves(operation(*values, **named)) if isinstance(each, Tensor)]
                for place, each in zip(places, found, strict=True):
                    if place is not each and place.data_ptr() != each.data_ptr():
                        place.copy_(each)


class _Capture(TorchDispatchMode):
    """Stands for `torch.cuda.graph`."""

    def __init__(self, graph: PlayedGraph, pool: object, capture_error_mode: str):
        super().__init__()
        assert pool == "a pool" and capture_error_mode == "thread_local"
        self.graph = graph

    def __torch_dispatch__(self, operation: Any, types: Any, values: Any = (), named: Any = None) -> Any:
        if operation._schema.name in READS:
            raise RuntimeError("operation not permitted when stream is capturing")
        found = operation(*values, **(named or {}))
        places = [each for each in tree_leaves(found) if isinstance(each, Tensor)]
        self.graph.operations.append((operation, values, named or {}, places))
        return found

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for operation, _, _, places in self.graph.operations:
            if not operation.is_view and not operation._schema.is_mutable:
                for place in places:
                    if place.is_floating_point():
                        place.detach().fill_(torch.nan)


def play(monkeypatch: pytest.MonkeyPatch) -> list[PlayedGraph]:
    """Let torch have graphs; returns those that are made from here on."""
    made: ClassVar[list[PlayedGraph]] = []
    monkeypatch.setattr(PlayedGraph, "made", made)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", PlayedGraph)
    monkeypatch.setattr(torch.cuda, "graph", _Capture)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "a pool")
    return made
