"""What a dataset is: pictures with captions, and what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lora_core.messages import Message

Level = Literal["left out", "warning", "note"]


@dataclass(frozen=True)
class Item:
    """One picture to train on. `width` and `height` are in pixels, after the EXIF rotation."""

    path: Path
    caption: str
    width: int
    height: int
    repeats: int = 1


# Every kind of problem there is; the sentence of each is `problem_<kind>` in the catalogs. What is "left out" is not
# trained on, the others are.
LEVELS: dict[str, Level] = {
    **dict.fromkeys(
        ("empty_file", "not_a_picture", "truncated", "damaged", "too_large", "no_access", "in_cloud", "folder",
         "unknown_suffix"), "left out",
    ),
    **dict.fromkeys(
        ("missing_caption", "empty_caption", "caption_encoding", "caption_unreadable", "caption_controls",
         "caption_no_access", "caption_cut", "long_caption", "same_stem", "tiny", "extreme_aspect", "blurred",
         "near_duplicate"), "warning",
    ),
    **dict.fromkeys(
        ("wrong_extension", "repeats_ignored", "animated", "cmyk", "sixteen_bit", "transparent", "exif_rotated"), "note",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """Something about a file worth telling before training. `message` has the file's name in it."""

    path: Path
    kind: str  # one of LEVELS
    message: Message

    @property
    def level(self) -> Level:
        """How much it weighs."""
        return LEVELS[self.kind]

    @property
    def excluded(self) -> bool:
        """Whether the picture is left out of training."""
        return self.level == "left out"


@dataclass(frozen=True)
class Dataset:
    """The readable pictures of a folder, in an order that is the same on every system, and what was noticed."""

    folder: Path
    items: tuple[Item, ...]
    problems: tuple[Problem, ...]


def problem(path: Path, kind: str, **values: object) -> Problem:
    """A Problem of a kind in LEVELS, its sentence filled in with the file's name and `values`."""
    texts = {"name": path.name, "text_name": path.with_suffix(".txt").name, **values}
    filled = {key: printable(value) if isinstance(value, str) else value for key, value in texts.items()}
    return Problem(path, kind, Message(f"dataset.problem_{kind}", **filled))


def printable(text: str) -> str:
    """`text` without what no terminal or page can show: names on Linux may hold bytes that are no UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")
