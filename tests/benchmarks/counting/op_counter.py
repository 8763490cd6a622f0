"""Counts what a training step keeps in memory and computes, by running the real step on tensors without memory.

`train.optimizer_step` runs on PyTorch's meta device, forward, backward and optimizer, and every tensor it makes is
followed from birth to release. Nothing is taken from a formula but attention: the fused kernels keep queries, keys,
values, the output and one fp32 number per row and head (Dao 2023, FlashAttention-2), and no meta kernel stands for all
of them. Not counted is what kernels take within a call (workspaces of cuDNN and cuBLAS) and gaps of the allocator.

Batch, side and rank are given prime sizes that no model has a layer of. The bytes of a tensor are a product of sizes, so
its prime factors tell how it grows with each, and one count holds for every batch, picture size and rank.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from lora_core.training.estimate.counts import Polynomial, Term

BATCH, SIDE, RANK = 23, 19, 29
SIDE_UNIT = 8  # latent pixels to a unit of the side, so that every level of a UNet has whole sides
META = torch.device("meta")
_PRIMES = (BATCH, SIDE, RANK)


class OpCounter(TorchDispatchMode):
    """Follows every tensor of `device` made within its block: what lives when, in bytes by how they grow.

    `plain`: count bytes as they are, for sizes that are no primes.
    """

    def __init__(self, device: torch.device = META, plain: bool = False):
        super().__init__()  # type: ignore[no-untyped-call]
        self.device, self.plain = device, plain
        self.known: dict[int, Any] = {}
        self.terms: dict[Term, int] = {}
        self.events: list[tuple[int, int]] = []  # (column, bytes; negative when released)
        self.flops: dict[Term, float] = {}  # multiplications and additions
        self.ops = 0

    def ignore(self, tensors: Sequence[Tensor]) -> None:
        """Tensors that were there before and do not count."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self.known[storage._cdata] = storage

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.ops += 1
        if func._overloadpacket in flop_registry:
            self.compute(flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out))
        for tensor in (out,) if isinstance(out, Tensor) else tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.device == self.device:
                self._meet(tensor.untyped_storage())
        return out

    def compute(self, flops: int) -> None:
        term, factor = factored(flops)
        self.flops[term] = self.flops.get(term, 0.0) + factor

    def _meet(self, storage: Any) -> None:
        key = storage._cdata
        if key in self.known:
            return
        size = storage.nbytes()
        term = (0, 0, 0) if self.plain else factored(size)[0]
        column = self.terms.setdefault(term, len(self.terms))
        self.events.append((column, size))

        def part(_: object) -> None:
            self.events.append((column, -size))
            self.known.pop(key, None)

        self.known[key] = weakref.ref(storage, part)

    def peak(self) -> list[Polynomial]:
        """What lives at the worst moments, as polynomials of which the largest counts."""
        terms = list(self.terms)
        growth = np.zeros((len(self.events), len(terms)))
        columns, sizes = zip(*self.events, strict=True)
        growth[np.arange(len(sizes)), columns] = sizes
        units = np.array([BATCH ** t[0] * SIDE ** t[1] * RANK ** t[2] for t in terms])
        live = growth.cumsum(axis=0) / units
        return top([Polynomial(dict(zip(terms, row.tolist(), strict=True))) for row in _highest(live, terms)])

    def most(self) -> float:
        """The most bytes that lived at once, at the sizes that were run."""
        return float(max(np.cumsum([size for _, size in self.events]), default=0.0))


def factored(number: int) -> tuple[Term, float]:
    """The powers of the three primes in a number, and what is left of it."""
    powers = []
    for prime in _PRIMES:
        power = 0
        while number and number % prime == 0:
            number //= prime
            power += 1
        powers.append(power)
    return (powers[0], powers[1], powers[2]), float(number)


def _highest(live: np.ndarray, terms: Sequence[Term]) -> np.ndarray:
    """The rows that are the largest for some batch, side and rank in use."""
    sizes = [
        (b, s, r) for b in (1, 2, 4, 8, 16, 64) for s in (0.5, 1, 4, 8, 12, 16, 24, 32) for r in (1, 4, 16, 32, 128, 1024)
    ]
    worth = np.array([[b ** t[0] * s ** t[1] * r ** t[2] for (b, s, r) in sizes] for t in terms])
    found: set[int] = set()
    for start in range(0, len(sizes), 32):  # in parts, for memory
        found.update((live @ worth[:, start : start + 32]).argmax(0).tolist())
    return live[sorted(found)]


def top(moments: Sequence[Polynomial]) -> list[Polynomial]:
    """Those of the moments that no other one exceeds in everything."""
    kept: list[Polynomial] = []
    for moment in moments:
        terms = moment.terms
        if not any(other is not moment and _covers(other.terms, terms) for other in kept):
            kept = [other for other in kept if not _covers(terms, other.terms)] + [moment]
    return kept


def _covers(one: Mapping[Term, float], other: Mapping[Term, float]) -> bool:
    return all(one.get(term, 0.0) >= factor for term, factor in other.items())


_current: ContextVar[OpCounter | None] = ContextVar("op counter", default=None)


class _Attention(torch.autograd.Function):
    """Attention as the fused kernels keep it; only shapes are computed."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch, heads, rows, width = query.shape
        output = query.new_empty((batch, rows, heads, value.shape[-1])).transpose(1, 2)
        ctx.save_for_backward(query, key, value, output, query.new_empty((batch, heads, rows), dtype=torch.float32))
        ctx.products = 2 * batch * heads * rows * key.shape[2] * width  # of one matrix product
        _told(2 * ctx.products)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, *_ = ctx.saved_tensors
        _told(5 * ctx.products)  # the scores are computed anew
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _told(flops: int) -> None:
    if counter := _current.get():
        counter.compute(flops)


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    output: Tensor = _Attention.apply(query, key, value)  # type: ignore[no-untyped-call]
    return output


@functools.cache
def _on_meta() -> torch.library.Library:
    """Fused attention for tensors on the meta device, where PyTorch would take its plain one, which keeps every weight
    between two pixels. Tensors with memory are none of its business.
    """
    library = torch.library.Library("aten", "IMPL")
    library.impl("scaled_dot_product_attention", _attention, "AutogradMeta")
    return library


@contextmanager
def counting(counter: OpCounter) -> Iterator[None]:
    """Within the block operations are counted, in this thread alone."""
    assert _on_meta()
    token = _current.set(counter)
    try:
        with torch.autograd.set_multithreading_enabled(False), counter:
            yield
    finally:
        _current.reset(token)


def tensors_of(modules: Mapping[str, nn.Module]) -> list[Tensor]:
    return [tensor for module in modules.values() for tensor in (*module.parameters(), *module.buffers())]
