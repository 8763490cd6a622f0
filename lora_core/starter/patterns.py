"""Pictures beyond the toy world, so that the starter's VAE can also carry the styles a LoRA may bring."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from lora_core.starter.world import SUPERSAMPLE, Picture, draw, random_scene

Colour = tuple[int, int, int]


def training_picture(rng: np.random.Generator, size: int, toy_share: float) -> Picture:
    """One picture for the VAE, RGB_HW3 of `size` pixels: toy world (any shape) or, else, patterns."""
    if rng.random() < toy_share:
        return draw(random_scene(rng, shape="hourglass" if rng.random() < 0.03 else ""), size, rng=rng)
    big = size * SUPERSAMPLE
    picture = np.empty((big, big, 3), np.uint8)
    picture[:] = _colour(rng)
    for paint in rng.choice(
        np.array([_stripes, _checks, _gradient, _dots, _polygons, _strokes]), size=int(rng.integers(1, 4))
    ):
        paint(picture, rng)
    small = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
    if rng.random() < 0.15:
        small = np.clip(small + rng.normal(0, rng.uniform(3, 20), small.shape), 0, 255).astype(np.uint8)
    return np.asarray(small, np.uint8)


def _colour(rng: np.random.Generator) -> Colour:
    r, g, b = rng.integers(0, 256, size=3)
    return int(r), int(g), int(b)


def _window(picture: Picture, rng: np.random.Generator) -> Picture:
    """A random part of the picture (sometimes all of it), as a view to paint into."""
    if rng.random() < 0.4:
        return picture
    size = picture.shape[0]
    top, left = rng.integers(0, size * 3 // 4, size=2)
    height, width = rng.integers(size // 4, size, size=2)
    return picture[top : top + height, left : left + width]


def _blend(view: Picture, mask_HW: NDArray[np.bool_], rng: np.random.Generator) -> None:
    view[mask_HW] = _colour(rng)


def _coordinates(view: Picture, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates across the view in supersampled pixels, turned by a random angle."""
    y, x = np.mgrid[: view.shape[0], : view.shape[1]]
    angle = rng.choice([0.0, np.pi / 2, np.pi / 4, rng.uniform(0, np.pi)])
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _stripes(picture: Picture, rng: np.random.Generator) -> None:
    view = _window(picture, rng)
    along, _ = _coordinates(view, rng)
    period = rng.uniform(3, 16) * SUPERSAMPLE
    _blend(view, (along % period) < period * rng.uniform(0.25, 0.75), rng)


def _checks(picture: Picture, rng: np.random.Generator) -> None:
    view = _window(picture, rng)
    along, across = _coordinates(view, rng)
    side = rng.uniform(3, 12) * SUPERSAMPLE
    _blend(view, ((along // side) + (across // side)) % 2 == 0, rng)


def _gradient(picture: Picture, rng: np.random.Generator) -> None:
    view = _window(picture, rng)
    along, _ = _coordinates(view, rng)
    share = ((along - along.min()) / max(float(np.ptp(along)), 1.0))[..., None]
    view[:] = (share * np.array(_colour(rng)) + (1 - share) * np.array(_colour(rng))).astype(np.uint8)


def _dots(picture: Picture, rng: np.random.Generator) -> None:
    colour, size = _colour(rng), picture.shape[0]
    outline = -1 if rng.random() < 0.6 else int(rng.integers(1, 4)) * SUPERSAMPLE
    for _ in range(int(rng.integers(1, 14))):
        x, y = rng.integers(0, size, size=2)
        axes = rng.integers(size // 40, size // 5, size=2)
        cv2.ellipse(
            picture, (int(x), int(y)), (int(axes[0]), int(axes[1])), float(rng.uniform(0, 180)), 0, 360, colour, outline
        )


def _polygons(picture: Picture, rng: np.random.Generator) -> None:
    size = picture.shape[0]
    for _ in range(int(rng.integers(1, 4))):
        corners = rng.integers(3, 9)
        angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
        reach = rng.uniform(0.1, 0.5) * size * rng.uniform(0.5, 1, corners)
        points = np.stack([np.cos(angles), np.sin(angles)], 1) * reach[:, None] + rng.uniform(0.2, 0.8, 2) * size
        cv2.fillPoly(picture, [points.astype(np.int32)], _colour(rng), cv2.LINE_AA)


def _strokes(picture: Picture, rng: np.random.Generator) -> None:
    size = picture.shape[0]
    colour, thickness = _colour(rng), int(rng.integers(1, 5)) * SUPERSAMPLE
    for _ in range(int(rng.integers(1, 5))):
        points = rng.integers(0, size, size=(int(rng.integers(2, 6)), 2)).astype(np.int32)
        cv2.polylines(picture, [points], bool(rng.random() < 0.3), colour, thickness, cv2.LINE_AA)
