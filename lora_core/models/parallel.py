"""How a batch is shared out to threads of a processor, each of which computes some of its pictures alone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

LEAST = 4  # pictures of a part: with fewer, what a part costs whatever its size outweighs them


def shares(pictures: int, count: int) -> list[tuple[int, int]]:
    """Start and end of up to `count` parts, as equal as can be, none below LEAST unless it is the only one."""
    parts = max(1, min(count, pictures // LEAST))
    return list(pairwise(pictures * part // parts for part in range(parts + 1)))


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

        return (torch.cat(list(pool.map(answer, shares(len(sample), count)))),)

    with ThreadPoolExecutor(count, "lane") as pool:
        unet.forward = forward
        try:
            yield
        finally:
            unet.forward = whole


def _cut(value: Any, batch: int, start: int, end: int) -> Any:
    """The part of what belongs to a batch, row by row, and the rest as it is."""
    if isinstance(value, dict):
        return {name: _cut(each, batch, start, end) for name, each in value.items()}
    is_by_row = isinstance(value, Tensor) and value.dim() > 0 and len(value) == batch
    return value[start:end] if is_by_row else value
