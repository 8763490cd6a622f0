"""Draws Training/: 12 pictures of an hourglass, a shape the starter model has never seen, with captions.

    python -m lora_core.starter.make_training [FOLDER]

The word for it is "ampulheta", Portuguese for hourglass: the model knows no such word either. Four colours of the
figure stand on three backgrounds each: with a colour of its own on every background, a LoRA learned the pairs by heart
and painted backgrounds that nobody asked for. All stand upright, as hourglasses do: twelve pictures are too few
to tell a tilt of eight degrees from the shape, and what was learned of them was lopsided (docs/log.md).
"""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lora_core.starter.world import NEW_SHAPE, Picture, Scene, draw
from lora_core.system.files import write_bytes_whole, write_text_whole

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
    Sheet("001.jpg", "blue", "yellow", SQUARE),
    Sheet("002.png", "yellow", "purple", WIDE),
    Sheet("003.png", "white", "green", SQUARE),
    Sheet("004.jpg", "red", "black", TALL),
    Sheet("005.png", "blue", "white", SQUARE),
    Sheet("006.png", "yellow", "blue", SQUARE),
    Sheet("007.png", "white", "orange", WIDE),
    Sheet("008.jpg", "red", "white", SQUARE),
    Sheet("009.png", "blue", "pink", TALL),
    Sheet("010.png", "yellow", "black", SQUARE),
    Sheet("011.png", "white", "red", SQUARE),
)


def drawings() -> list[tuple[Sheet, Scene, Picture]]:
    """What Training/ holds, the same each time: sheet, scene and picture (RGB_HW3 before it is compressed)."""
    rng = np.random.default_rng(SEED)
    made = []
    for sheet in SHEETS:
        dx, dy = rng.uniform(-0.05, 0.05, size=2)
        scene = Scene(
            NEW_SHAPE,
            sheet.colour,
            sheet.background,
            centre=(0.5 + float(dx), 0.5 + float(dy)),
            radius=float(rng.uniform(0.36, 0.41)),
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
