"""Pictures of every shape without stretching: each goes to the bucket of the nearest aspect, cut from its centre.

Buckets have about the same number of pixels, so every batch costs the same memory (NovelAI's aspect ratio bucketing,
2022).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lora_core.errors import UserError

MAX_ASPECT = 2.0  # what is wider or taller is cropped: models know little of it


def bucket_size(width: int, height: int, resolution: int, step: int) -> tuple[int, int]:
    """(width, height) in pixels of the bucket for a picture of `width` x `height`.

    Both sides are multiples of `step`, the area is at most `resolution`**2, the aspect lies within 1:2 and 2:1 and
    is the nearest to the picture's among such sizes. Swapping width and height swaps the result.
    Raises UserError when not even one square of `step` fits.
    """
    if height > width:
        return bucket_size(height, width, resolution, step)[::-1]
    aspect = width / height
    # Nearest on a logarithmic scale, where 2:1 is as far from 1:1 as 1:2; of equals the largest.
    return min(_landscapes(resolution, step), key=lambda size: (abs(math.log(size[0] / size[1] / aspect)), -size[0]))


@lru_cache
def _landscapes(resolution: int, step: int) -> tuple[tuple[int, int], ...]:
    if resolution < step:
        raise UserError("dataset.resolution_small", resolution=resolution, step=step)
    widths = range(step, int(resolution * math.sqrt(MAX_ASPECT)) + 1, step)
    sizes = [(width, min(width, resolution**2 // width // step * step)) for width in widths]
    # A size that fits inside another one would only waste pixels.
    return tuple(
        (w, h)
        for w, h in sizes
        if 0 < w <= MAX_ASPECT * h and not any(w <= w2 and h <= h2 and (w, h) != (w2, h2) for w2, h2 in sizes)
    )


def crop_box(width: int, height: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) in pixels of the picture: its largest centred part with the aspect of `size`."""
    bucket_w, bucket_h = size
    if width * bucket_h > height * bucket_w:
        cut_w, cut_h = max(1, round(height * bucket_w / bucket_h)), height
    else:
        cut_w, cut_h = width, max(1, round(width * bucket_h / bucket_w))
    left, top = (width - cut_w) // 2, (height - cut_h) // 2
    return left, top, left + cut_w, top + cut_h


def fit(picture: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """What the model sees of an RGB picture: `crop_box` of it, scaled to `size` (width, height). RGB_HW3, 0..255.

    Bicubic and antialiased. Cropping comes first, so that a 30000x10 strip never needs 30000/10 times the memory.
    """
    box = crop_box(picture.width, picture.height, size)
    return np.array(picture.resize(size, Image.Resampling.BICUBIC, box=box), np.uint8)


def batches(
    bucket_of_item: Sequence[tuple[int, int]], repeats: Sequence[int], batch_size: int, seed: int, epoch: int
) -> list[list[int]]:
    """The batches of one epoch as lists of item numbers: a pure function of its arguments.

    Every item comes `repeats` times; all items of a batch have the same bucket. When a bucket does not divide by
    `batch_size` its last batch is smaller: no picture is left out or seen more often than asked. Which items share
    a batch and the order of the batches change with `epoch`. `seed` and `epoch` are at least 0.
    """
    assert len(bucket_of_item) == len(repeats)
    assert batch_size >= 1
    item_numbers = [number for number, times in enumerate(repeats) for _ in range(times)]
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    # Sorting by raw random bits, because numpy promises the same bits for ever but not the same shuffle.
    random = np.random.PCG64([seed, epoch])
    for position in _order(random, len(item_numbers)):
        number = item_numbers[position]
        groups[bucket_of_item[number]].append(number)
    full = [group[n : n + batch_size] for group in groups.values() for n in range(0, len(group), batch_size)]
    return [full[position] for position in _order(random, len(full))]


def _order(random: np.random.PCG64, count: int) -> list[int]:
    keys = np.atleast_1d(np.asarray(random.random_raw(count), np.uint64)) if count else np.empty(0, np.uint64)
    return [int(n) for n in np.argsort(keys, kind="stable")]
