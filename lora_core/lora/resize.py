"""A layer's change at another rank: the nearest there is (Eckart and Young 1936), and how far off it is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lora_core.lora.adapter import Adapter

_SPARE, _ROUNDS = 8, 4  # of the randomized decomposition (Halko et al. 2011): directions more than asked, and iterations


@dataclass(frozen=True)
class Factors:
    """scale * up @ down is the change; both fp32, [out, rank] and [rank, in] or [rank, in kh kw].

    kept, whole: squared Frobenius norms of that, and of the change it was made of.
    """

    up: Tensor
    down: Tensor
    scale: float
    kept: float
    whole: float


def factors(value: Adapter, rank: int) -> Factors:
    """An adapter's product in matrices of at most this rank; its own where they are."""
    up, down = value.up.float().flatten(1), value.down.float().flatten(1)
    if value.rank <= rank:
        whole = float(((up.T @ up) * (down @ down.T)).sum()) * value.scale**2
        return Factors(up, down, value.scale, whole, whole)
    left, of_up = torch.linalg.qr(up)
    right, of_down = torch.linalg.qr(down.T)
    u, s, v = torch.linalg.svd(of_up @ of_down.T * value.scale)
    return _cut(left @ u, s, v @ right.T, rank, float(s.square().sum()))


def nearest(change: Tensor, rank: int) -> Factors:
    """A whole change of a weight, [out, in] or [out, in, kh, kw], in two matrices of this rank."""
    flat = change.float().flatten(1)
    wanted = min(rank + _SPARE, *flat.shape)
    u, s, v = torch.svd_lowrank(flat, wanted, _ROUNDS)
    return _cut(u, s, v.T, rank, float(flat.square().sum()))


def _cut(u: Tensor, s: Tensor, v: Tensor, rank: int, whole: float) -> Factors:
    """Each side takes the root of the singular values, so that both learn at the same pace."""
    root = s[:rank].sqrt()
    return Factors(u[:, :rank] * root, root[:, None] * v[:rank], 1.0, float(s[:rank].square().sum()), whole)
