"""How far a training has moved from its base model, measured at its own sample pictures."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lora_core.events import Sample

SIDE = 64  # pixels compared: what people see as another picture is coarser than grain
HARDLY = 0.1  # of a picture's own contrast; docs/log.md has how it was measured


def change(folder: Path, samples: Mapping[int, Sequence[Sample]]) -> float | None:
    """How much the last samples differ from those of the base model with the same prompts and seeds.

    The mean difference of pixels over the mean contrast of the base model's pictures: 0 is the same pictures; pictures that
    have nothing to do with each other come to 1 and more. None where there are no two to compare.

    folder: of the run. samples: by step; step 0 is the base model.
    """
    last = max(samples, default=0)
    if not last or 0 not in samples:
        return None
    before = {(sample.prompt, sample.seed): folder / sample.path for sample in samples[0]}
    after = {(sample.prompt, sample.seed): folder / sample.path for sample in samples[last]}
    pairs = tuple((before[key], after[key]) for key in before if key in after)
    return _compared(pairs)


@functools.lru_cache(maxsize=32)  # pages ask each second, and samples are never drawn over
def _compared(pairs: tuple[tuple[Path, Path], ...]) -> float | None:
    differences, contrasts = 0.0, 0.0
    for before, after in pairs:
        try:
            old, new = _pixels(before), _pixels(after)
        except OSError:  # deleted or damaged meanwhile
            continue
        differences += float(np.abs(new - old).mean())
        contrasts += float(np.abs(old - old.mean(axis=(0, 1))).mean())
    return differences / contrasts if contrasts else None


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32)
