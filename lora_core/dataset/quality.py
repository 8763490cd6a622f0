"""The quality report: everything about a dataset worth knowing before it is trained on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lora_core.dataset.inspection import Inspection, inspect
from lora_core.dataset.items import Dataset, Item, Problem, problem
from lora_core.dataset.pictures import PictureError
from lora_core.dataset.tokens import CHUNK

EXTREME_ASPECT = 3.0
BLURRED = 0.45  # measured on 29 photos and drawings: in focus 1.0 to 4.1, blurred by a Gaussian of 2 px 0 to 0.46
# Measured on the same pictures: resized, recompressed, brightened or slightly cropped copies lie below all three,
# different pictures at 13 bits or 10 levels and more.
SAME_BITS, SAME_SHADES, SAME_BRIGHTNESS = 10, 9.0, 24.0


def report(
    dataset: Dataset, resolution: int, token_count: Callable[[str], int] | None = None, token_limit: int = CHUNK
) -> tuple[Problem, ...]:
    """Everything noticed: what `scan` told, then what depends on the pictures' content and on `resolution` (pixels).

    `token_count` counts a caption's tokens without start and end marks; without it long captions are not told.
    Sorted by picture, in the order of the dataset; pictures are decoded at most once (see `inspection.inspect`).
    """
    inspected = list(inspect_all([item.path for item in dataset.items]))  # a file may be gone since the scan
    found = list(dataset.problems)
    for item, seen in zip(dataset.items, inspected, strict=True):
        found += _of_size(item, resolution)
        if isinstance(seen, Problem):
            found.append(seen)
        else:
            found += _of_content(item, seen)
        if token_count is not None and (tokens := token_count(item.caption)) > token_limit:
            found.append(problem(item.path, "long_caption", tokens=tokens, limit=token_limit))
    found += _near_duplicates(dataset.items, inspected)
    place = {item.path: n for n, item in enumerate(dataset.items)}
    return tuple(sorted(found, key=lambda told: place.get(told.path, -1)))


def workers() -> int:
    """Threads for decoding pictures: Pillow lets go of Python's lock; four of the largest pictures fit in memory."""
    return max(1, min(4, os.cpu_count() or 1))


def inspect_all(paths: Sequence[Path]) -> Iterator[Inspection | Problem]:
    """What each picture is, or why it is none, in their order; decoded in several threads as they are asked for."""

    def one(path: Path) -> Inspection | Problem:
        try:
            return inspect(path)
        except PictureError as error:
            return error.problem

    pool = ThreadPoolExecutor(workers())
    try:
        yield from pool.map(one, paths)
    finally:
        pool.shutdown(cancel_futures=True)


def _of_size(item: Item, resolution: int) -> list[Problem]:
    size = {"width": item.width, "height": item.height}
    shorter, longer = sorted((item.width, item.height))
    found = []
    if shorter < resolution / 2:
        found.append(problem(item.path, "tiny", resolution=resolution, **size))
    if longer > EXTREME_ASPECT * shorter:
        found.append(problem(item.path, "extreme_aspect", **size))
    return found


def _of_content(item: Item, seen: Inspection) -> list[Problem]:
    facts = {
        "blurred": seen.sharpness < BLURRED,
        "animated": seen.animated,
        "cmyk": seen.mode == "CMYK",
        "sixteen_bit": seen.sixteen_bit,
        "transparent": seen.transparent,
        "exif_rotated": seen.orientation != 1,
    }
    return [problem(item.path, kind) for kind, true in facts.items() if true]


def _near_duplicates(items: Sequence[Item], inspected: Sequence[Inspection | Problem]) -> list[Problem]:
    """Each picture that nearly equals an earlier one, told once with the first such picture."""
    known = [(item, seen) for item, seen in zip(items, inspected, strict=True) if isinstance(seen, Inspection)]
    if not known:
        return []
    hashes_N = np.array([seen.dhash for _, seen in known], np.uint64)
    tints_NPC = np.stack([np.frombuffer(seen.tint, np.uint8).reshape(-1, 3) for _, seen in known]).astype(np.float32)
    found = []
    for n in range(1, len(known)):
        close = np.flatnonzero(np.bitwise_count(hashes_N[:n] ^ hashes_N[n]) <= SAME_BITS)
        same = close[_same_colours(tints_NPC[close], tints_NPC[n])]
        if same.size:
            other = known[int(same[0])][0].path
            found.append(problem(known[n][0].path, "near_duplicate", other=_told_beside(other, known[n][0])))
    return found


def _same_colours(tints_NPC: NDArray[np.float32], tint_PC: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Fingerprints know brightness only: the colours have to agree too, give or take a change of exposure."""
    difference = tints_NPC - tint_PC
    shift = difference.mean(axis=1, keepdims=True)
    shades = np.abs(difference - shift).mean(axis=(1, 2))
    return np.asarray((shades <= SAME_SHADES) & (np.abs(shift).max(axis=(1, 2), initial=0) <= SAME_BRIGHTNESS))


def _told_beside(other: Path, item: Item) -> str:
    """The other picture's name, with its folder when that is another one."""
    return other.name if other.parent == item.path.parent else f"{other.parent.name}/{other.name}"
