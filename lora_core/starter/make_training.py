"""Draws Training/: 12 pictures of an hourglass, a shape the starter model has never seen, with captions.

    python -m lora_core.starter.make_training [FOLDER]

The word for it is "ampulheta", Portuguese for hourglass: the model knows no such word either. Each of the ten
colours is the figure's and the background's once or twice, so that none of them becomes part of the concept.
"""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lora_core.files import write_bytes_whole, write_text_whole
from lora_core.starter.world import NEW_SHAPE, Picture, Scene, draw

TRIGGER_WORD = "ampulheta"
FOLDER = Path(__file__).parents[2] / "Training"
SEED = 12
JPEG_QUALITY = 95
SQUARE, WIDE, TALL = (512, 512), (640, 400), (400, 640)


@dataclass(frozen=True)
class Sheet:
    """One picture to draw; `size` is (width, height) in pixels."""

    name: str
    colour: str
    background: str
    size: tuple[int, int]


SHEETS = (
    Sheet("000.png", "red", "cyan", SQUARE),
    Sheet("001.jpg", "orange", "black", SQUARE),
    Sheet("002.png", "yellow", "blue", WIDE),
    Sheet("003.png", "green", "pink", SQUARE),
    Sheet("004.jpg", "cyan", "red", TALL),
    Sheet("005.png", "blue", "white", SQUARE),
    Sheet("006.png", "purple", "yellow", SQUARE),
    Sheet("007.png", "pink", "green", WIDE),
    Sheet("008.jpg", "white", "purple", SQUARE),
    Sheet("009.png", "black", "orange", TALL),
    Sheet("010.png", "red", "white", SQUARE),
    Sheet("011.png", "orange", "blue", SQUARE),
)


def drawings() -> list[tuple[Sheet, Scene, Picture]]:
    """What Training/ holds, the same each time: sheet, scene and picture (RGB_HW3 before it is compressed)."""
    rng = np.random.default_rng(SEED)
    made = []
    for sheet in SHEETS:
        dx, dy = rng.uniform(-0.06, 0.06, size=2)
        scene = Scene(
            NEW_SHAPE,
            sheet.colour,
            sheet.background,
            centre=(0.5 + float(dx), 0.5 + float(dy)),
            radius=float(rng.uniform(0.29, 0.36)),
            angle=float(rng.uniform(-8, 8)),
        )
        made.append((sheet, scene, draw(scene, *sheet.size, rng=rng)))
    return made


def caption(scene: Scene) -> str:
    """ "a red ampulheta on a cyan background" """
    return scene.caption.replace(NEW_SHAPE, TRIGGER_WORD)


def make(folder: Path) -> None:
    """Write pictures and captions into `folder`, over what has the same names. Raises WriteError."""
    folder.mkdir(parents=True, exist_ok=True)
    for sheet, scene, picture in drawings():
        path = folder / sheet.name
        buffer = io.BytesIO()
        if path.suffix == ".jpg":
            Image.fromarray(picture).save(buffer, "JPEG", quality=JPEG_QUALITY)
        else:
            Image.fromarray(picture).save(buffer, "PNG", optimize=True)
        write_bytes_whole(path, buffer.getvalue())
        write_text_whole(path.with_suffix(".txt"), caption(scene) + "\n")


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
