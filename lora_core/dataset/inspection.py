"""The inspection of a picture: a single decode that tells its size, its oddities, its sharpness and its fingerprint."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lora_core.dataset import pictures
from lora_core.dataset.items import problem
from lora_core.system import windows

SIDE = 512  # sharpness is measured with the longer side at this many pixels, so that it does not depend on the size
_ROUNDING = 4.0  # what rounding to 8 bits alone can add to the absolute Laplacian, in levels
_TINT = 8  # side of the tiny colour picture that tells apart what a fingerprint of brightness cannot


@dataclass(frozen=True)
class Inspection:
    """What one decode of a picture tells. Sizes in pixels after the EXIF rotation."""

    width: int
    height: int
    format: str  # Pillow's name, from the content
    mode: str
    orientation: int  # EXIF, 1..8
    animated: bool
    sixteen_bit: bool
    transparent: bool
    sharpness: float
    dhash: int  # 64 bits
    tint: bytes  # 8x8 RGB


def inspect(path: Path) -> Inspection:
    """Decode the picture at `path` once; to ask again for an unchanged file costs nothing. Raises PictureError."""
    try:
        stamp = windows.reachable(path).stat()
    except OSError:
        return _inspect(path, 0, 0)  # opening it raises the sentence
    if windows.is_in_cloud(windows.reachable(path)):  # also where it was looked at before
        raise pictures.PictureError(problem(path, "in_cloud"))
    return _inspect(path, stamp.st_mtime_ns, stamp.st_size)


@lru_cache(maxsize=20_000)
def _inspect(path: Path, _mtime_ns: int, _size: int) -> Inspection:
    with pictures.opened(path) as image:
        name, mode, animated = image.format or "", image.mode, _is_animated(image)
        deep = pictures.is_sixteen_bit(image)
        turn = pictures.orientation(image)
        width, height = image.size
        pictures.shrink_decoder(image, SIDE)
        image.load()
        if image.mode in ("RGB", "RGBA", "CMYK", "L", "LA"):
            image.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR)
        transparent = _is_transparent(image)
        small = pictures.flattened(image, (255, 255, 255))
        small.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR)
        small = pictures.upright(small, turn)
        if turn >= 5:
            width, height = height, width
        grey = np.asarray(small.convert("L"))
        return Inspection(
            width, height, name, mode, turn, animated, deep, transparent,
            sharpness(grey), dhash(small), _tint(small),
        )  # fmt: skip


def sharpness(grey_HW: NDArray[np.uint8]) -> float:
    """How quickly the strongest edges turn from dark to light: about 2 when in focus, below 0.45 when blurred.

    The 99.5th percentile of the absolute Laplacian over that of the gradient, which for an ideal edge blurred by
    a Gaussian falls with its width and does not depend on contrast. The variance of the Laplacian (Pech-Pacheco
    et al., 2000) was tried first: sharp pictures with little detail score below blurred ones of grass and gravel.
    Asking the strongest edges only keeps a sharp face before a soft background sharp. A picture without edges
    cannot be judged and counts as sharp.
    """
    bend = np.abs(cv2.Laplacian(grey_HW, cv2.CV_32F))
    slope = np.hypot(cv2.Sobel(grey_HW, cv2.CV_32F, 1, 0), cv2.Sobel(grey_HW, cv2.CV_32F, 0, 1)) / 8  # levels per pixel
    steepest = float(np.quantile(slope, 0.995))
    if steepest < 1:
        return math.inf
    return max(0.0, float(np.quantile(bend, 0.995)) - _ROUNDING) / steepest


def dhash(image: Image.Image) -> int:
    """64 bits: whether each of 8x8 cells is clearly darker than its right neighbour (Krawetz's difference hash).

    Two levels count as equal, so that JPEG noise in flat areas does not flip bits.
    """
    cells = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    bits = (cells[:, 1:] > cells[:, :-1] + 2).flatten()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _tint(image: Image.Image) -> bytes:
    return image.resize((_TINT, _TINT), Image.Resampling.BOX).tobytes()


def _is_transparent(image: Image.Image) -> bool:
    if not image.has_transparency_data:
        return False
    lowest, _ = image.convert("RGBA").getchannel("A").getextrema()
    return int(lowest) < 250  # type: ignore[arg-type]


def _is_animated(image: Image.Image) -> bool:
    # Phones store a second view of a photo in the same file (MPO); that is no animation.
    return image.format != "MPO" and bool(getattr(image, "is_animated", False))
