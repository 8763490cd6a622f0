"""The toy world of the starter model: flat shapes on plain backgrounds, and the check that reads them back.

`draw` makes a picture, `read` names the shape, the colour and the background it sees in one. Everything that
claims the starter model (or a LoRA on it) learned something is measured with `read`; it never sees the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]  # RGB_HW3, 0..255
Mask = NDArray[np.bool_]  # HW

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (247, 140, 30),
    "yellow": (252, 221, 60),
    "green": (46, 160, 67),
    "cyan": (80, 205, 215),
    "blue": (40, 80, 215),
    "purple": (135, 60, 185),
    "pink": (246, 150, 195),
    "white": (248, 248, 248),
    "black": (24, 24, 28),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "moon")
NEW_SHAPE = "hourglass"  # the concept of Training/: the starter model never saw one
SUPERSAMPLE = 4
_FIXED_POINT_BITS = 4  # cv2 draws with sub-pixel corners given in sixteenths


@dataclass(frozen=True)
class Scene:
    """What a picture shows. `centre` and `radius` are shares of the shorter side, `angle` is in degrees."""

    shape: str
    colour: str
    background: str
    centre: tuple[float, float] = (0.5, 0.5)
    radius: float = 0.38
    angle: float = 0.0

    @property
    def caption(self) -> str:
        return f"a {self.colour} {self.shape} on a {self.background} background"


@dataclass(frozen=True)
class Reading:
    """What `read` sees; an empty string means "none of the names I know"."""

    shape: str
    colour: str
    background: str
    likeness: float  # overlap (intersection over union) with the best template, 0..1


def random_scene(rng: np.random.Generator, shape: str = "") -> Scene:
    """A scene with two different colours and a little jitter in place, size and angle."""
    colour, background = rng.choice(list(COLOURS), size=2, replace=False)
    dx, dy = rng.uniform(-0.05, 0.05, size=2)
    return Scene(
        shape=shape or str(rng.choice(SHAPES)),
        colour=str(colour),
        background=str(background),
        centre=(0.5 + float(dx), 0.5 + float(dy)),
        radius=float(rng.uniform(0.35, 0.41)),
        angle=float(rng.uniform(-8, 8)),
    )


def draw(scene: Scene, width: int, height: int = 0, rng: np.random.Generator | None = None) -> Picture:
    """Draw `scene` as RGB_HW3 uint8, antialiased; `rng` adds a little jitter to both colours."""
    height = height or width
    big_w, big_h = width * SUPERSAMPLE, height * SUPERSAMPLE
    side = min(big_w, big_h)
    picture = np.empty((big_h, big_w, 3), np.uint8)
    picture[:] = _jittered(COLOURS[scene.background], rng)
    centre = np.array([scene.centre[0] * big_w, scene.centre[1] * big_h])
    corners = [
        np.round((contour @ _rotation(scene.angle).T * scene.radius * side + centre) * 2**_FIXED_POINT_BITS).astype(
            np.int32
        )
        for contour in _contours(scene.shape)
    ]
    cv2.fillPoly(picture, corners, _jittered(COLOURS[scene.colour], rng), cv2.LINE_AA, _FIXED_POINT_BITS)
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def read(picture: Picture) -> Reading:
    """Name what a picture of at least 32x32 pixels shows, from its pixels alone.

    The background is the nearest named colour to the median of the border, the figure the largest region that
    differs from it, and its shape the template that overlaps it best (at least 80 %, else none).
    """
    pixels = picture.astype(np.float32)
    margin = max(2, min(picture.shape[:2]) // 20)
    border = np.concatenate([
        pixels[:margin].reshape(-1, 3), pixels[-margin:].reshape(-1, 3),
        pixels[:, :margin].reshape(-1, 3), pixels[:, -margin:].reshape(-1, 3),
    ])  # fmt: skip
    background = np.median(border, axis=0)
    figure = _figure(pixels, background)
    if figure is None:
        return Reading("", "", nearest_colour(background), 0.0)
    mask, colour = figure
    shape, likeness = _nearest_shape(mask)
    return Reading(shape, nearest_colour(colour), nearest_colour(background), likeness)


def matches(picture: Picture, scene: Scene) -> bool:
    """Whether the picture shows the scene's shape in its colour on its background."""
    seen = read(picture)
    return (seen.shape, seen.colour, seen.background) == (scene.shape, scene.colour, scene.background)


def nearest_colour(rgb: NDArray[np.float32]) -> str:
    """The named colour nearest to `rgb` in CIE Lab; an empty string when none is near."""
    distances = np.linalg.norm(_lab(np.array(list(COLOURS.values()), np.float32)) - _lab(rgb[None]), axis=1)
    best = int(distances.argmin())
    return list(COLOURS)[best] if distances[best] < 35 else ""


def _figure(pixels: NDArray[np.float32], background: NDArray[np.float32]) -> tuple[Mask, NDArray[np.float32]] | None:
    """The largest region that is not background, and its colour; None when there is none to speak of."""
    distance = np.linalg.norm(pixels - background, axis=2)
    strong = distance > max(30.0, 0.6 * float(np.percentile(distance, 97)))
    if strong.sum() < 0.01 * strong.size:
        return None
    colour = np.median(pixels[strong], axis=0)
    # Each pixel lies on the line from background to figure colour; past the middle it belongs to the figure.
    line = colour - background
    share = (pixels - background) @ line / float(line @ line)
    count, labels, stats, _ = cv2.connectedComponentsWithStats((share > 0.5).astype(np.uint8), connectivity=8)
    if count < 2:
        return None
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    if stats[largest, cv2.CC_STAT_AREA] < 0.02 * strong.size:
        return None
    return labels == largest, colour


def _nearest_shape(mask: Mask) -> tuple[str, float]:
    figure = _normalised(mask)
    best_name, best = "", 0.0
    for name, templates in _templates().items():
        for template in templates:
            overlap = float((figure & template).sum() / (figure | template).sum())
            if overlap > best:
                best_name, best = name, overlap
    return (best_name if best >= 0.8 else ""), best


def _normalised(mask: Mask, side: int = 40) -> Mask:
    """Scale the mask's bounding box to `side` on its longer side, centred, so that size and place drop out."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    cut = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32)
    scale = side / max(cut.shape)
    width, height = max(1, round(cut.shape[1] * scale)), max(1, round(cut.shape[0] * scale))
    small = cv2.resize(cut, (width, height), interpolation=cv2.INTER_LINEAR) > 0.5
    canvas = np.zeros((side, side), np.bool_)
    top, left = (side - height) // 2, (side - width) // 2
    canvas[top : top + height, left : left + width] = small
    return canvas


@lru_cache
def _templates() -> dict[str, list[Mask]]:
    """Each shape at five angles, drawn white on black and normalised."""
    return {
        shape: [
            _normalised(draw(Scene(shape, "white", "black", angle=angle), 96)[:, :, 1] > 128)
            for angle in (-8, -4, 0, 4, 8)
        ]
        for shape in (*SHAPES, NEW_SHAPE)
    }


def _contours(shape: str) -> list[NDArray[np.float64]]:
    """The outline(s) of a shape in a box of -1..1 (x right, y down); a second outline inside is a hole."""
    turn = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    match shape:
        case "circle":
            return [circle]
        case "ring":
            return [circle, circle * 0.5]
        case "square":
            return [np.array([[-0.85, -0.85], [0.85, -0.85], [0.85, 0.85], [-0.85, 0.85]])]
        case "triangle":
            return [np.array([[0, -0.95], [1, 0.8], [-1, 0.8]])]
        case "cross":
            a = 0.34
            arm = np.array([[-a, -1], [a, -1], [a, -a]])
            return [np.concatenate([arm @ _rotation(quarter * 90).T for quarter in range(4)])]
        case "star":
            angles = np.arange(10) * np.pi / 5 - np.pi / 2
            reach = np.where(np.arange(10) % 2 == 0, 1.08, 0.52)[:, None]
            return [np.stack([np.cos(angles), np.sin(angles)], axis=1) * reach]
        case "heart":
            x = 16 * np.sin(turn) ** 3
            y = -(13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn))
            return [np.stack([x, y], axis=1) / 16.5]
        case "moon":
            return [_moon()]
        case "hourglass":
            n = 0.22  # a thinner waist is less than a latent pixel wide, and breaks where the dice fall badly
            right = np.array([[0.82, -1], [0.82, -0.8], [n, 0], [0.82, 0.8], [0.82, 1]])
            return [np.concatenate([right, right[::-1] * [-1, 1]])]
    raise ValueError(f"unknown shape {shape!r}; known: {', '.join((*SHAPES, NEW_SHAPE))}")


def _moon() -> NDArray[np.float64]:
    """A crescent open to the right: an outer arc of radius 1, back along a circle moved right by 0.6."""
    shift, inner = 0.6, 0.8
    meet = (1 + shift**2 - inner**2) / (2 * shift)  # x where both circles cross
    start = np.arccos(meet)
    outer = np.linspace(start, 2 * np.pi - start, 48)
    begin = np.arctan2(np.sin(start), np.cos(start) - shift)
    back = np.linspace(2 * np.pi - begin, begin, 36)
    arc = np.stack([np.cos(outer), np.sin(outer)], axis=1)
    bite = np.stack([shift + inner * np.cos(back), inner * np.sin(back)], axis=1)
    crescent = np.concatenate([arc, bite])
    crescent[:, 0] += 0.2
    return crescent


def _rotation(degrees: float) -> NDArray[np.float64]:
    a = np.deg2rad(degrees)
    return np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])


def _jittered(rgb: tuple[int, int, int], rng: np.random.Generator | None) -> tuple[int, int, int]:
    if rng is None:
        return rgb
    moved = np.clip(np.array(rgb) + rng.integers(-7, 8, size=3), 0, 255)
    return int(moved[0]), int(moved[1]), int(moved[2])


def _lab(rgb_N3: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(cv2.cvtColor((rgb_N3 / 255).astype(np.float32)[None], cv2.COLOR_RGB2LAB)[0], np.float32)
