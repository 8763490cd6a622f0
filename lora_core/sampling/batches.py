"""Which pictures are drawn side by side. Needs no torch, for the estimates count with it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from lora_core.sampling.params import GenerationParams

MOST_AT_ONCE = 16
PIXELS_AT_ONCE = 512 * 512  # several small pictures share a batch; large ones are drawn one by one


def drawn_at_once(width: int, height: int) -> int:
    """Pictures of this size, in pixels, in a batch."""
    return max(1, min(MOST_AT_ONCE, PIXELS_AT_ONCE // (width * height)))


def alike(wanted: Sequence[GenerationParams]) -> list[list[GenerationParams]]:
    """The pictures in their order, parted where size, steps, guidance or sampler change."""
    kinds = itertools.groupby(wanted, lambda p: (p.width, p.height, p.steps, p.guidance, p.sampler))
    return [list(same) for _, same in kinds]


def batches_of(wanted: Sequence[GenerationParams]) -> list[list[GenerationParams]]:
    """The pictures in their order, in batches that one pass of the model predicts."""
    batches = []
    for same in alike(wanted):
        at_once = drawn_at_once(same[0].width, same[0].height)
        batches += [same[start : start + at_once] for start in range(0, len(same), at_once)]
    return batches
