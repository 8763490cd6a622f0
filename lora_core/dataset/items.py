"""What a dataset is: pictures with captions, and what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Level = Literal["left out", "warning", "note"]


@dataclass(frozen=True)
class Item:
    """One picture to train on. `width` and `height` are in pixels, after the EXIF rotation."""

    path: Path
    caption: str
    width: int
    height: int
    repeats: int = 1


@dataclass(frozen=True)
class Problem:
    """Something about a file worth telling before training.

    `message` is one English sentence with the file's name in it; `kind` and `values` are what a translation needs
    to say the same. `excluded`: the picture is left out of training.
    """

    path: Path
    kind: str
    message: str
    excluded: bool
    values: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Dataset:
    """The readable pictures of a folder, in an order that is the same on every system, and what was noticed."""

    folder: Path
    items: tuple[Item, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class Kind:
    level: Level
    template: str


# Every kind of problem there is. "left out" pictures are not trained on, the others are.
KINDS: dict[str, Kind] = {
    "empty_file": Kind("left out", "{name} is empty (0 bytes): copy the picture again."),
    "not_a_picture": Kind("left out", "{name} is {what}, not a picture: save it as PNG or JPEG."),
    "truncated": Kind("left out", "{name} breaks off in the middle: copy or download it again."),
    "damaged": Kind("left out", "{name} is damaged ({why}): open it in an image editor and save it again."),
    "too_large": Kind("left out", "{name} has more than {limit} million pixels: scale it down."),
    "no_access": Kind("left out", "{name} cannot be opened ({why}): check its permissions."),
    "in_cloud": Kind(
        "left out", "{name} is only in the cloud: right-click it and choose 'Always keep on this device', then check again."
    ),
    "folder": Kind("left out", "{name} is a folder with the name of a picture: rename it."),
    "unknown_suffix": Kind("left out", "{name} is of a kind that is not read: save it as PNG or JPEG."),
    "missing_caption": Kind("warning", "{name} has no caption file; it is trained on {caption}: write {text_name}."),
    "empty_caption": Kind("warning", "{name} has an empty caption; it is trained on {caption}: fill in {text_name}."),
    "caption_encoding": Kind("warning", "{text_name} is not UTF-8; it was read as {encoding}: save it as UTF-8."),
    "caption_unreadable": Kind(
        "warning", "{text_name} is in no known encoding; unknown characters were replaced: save it as UTF-8."
    ),
    "caption_controls": Kind("warning", "{text_name} holds control characters; they were skipped: save it again."),
    "caption_no_access": Kind("warning", "{text_name} cannot be read ({why}); {name} is trained on {caption}."),
    "caption_cut": Kind("warning", "{text_name} has {length} characters; only the first {limit} are used: shorten it."),
    "long_caption": Kind("warning", "{text_name} has {tokens} tokens; the model sees the first {limit}: shorten it."),
    "wrong_extension": Kind("note", "{name} is a {format} picture by its content: rename it to {better}."),
    "same_stem": Kind("warning", "{name} and {other} share the caption {text_name}: rename or delete one."),
    "repeats_ignored": Kind("note", "{folder} is not read as {count} repeats; its pictures count once: rename it."),
    "tiny": Kind("warning", "{name} is only {width}x{height}; at {resolution} it will look soft: use a larger one."),
    "extreme_aspect": Kind("warning", "{name} is {width}x{height}; much of it will be cut off: crop it yourself."),
    "blurred": Kind("warning", "{name} looks blurred; the model will learn the blur: use a sharper one."),
    "near_duplicate": Kind("warning", "{name} is nearly the same picture as {other}: delete one of them."),
    "animated": Kind("note", "{name} has several frames; the first is used: save the frame you want as PNG."),
    "cmyk": Kind("note", "{name} is in printing colours (CMYK); converted to RGB they may shift: save it as RGB."),
    "sixteen_bit": Kind("note", "{name} has 16 bits per channel; 8 are used: nothing to do."),
    "transparent": Kind("note", "{name} is transparent in places; they are filled with the background colour."),
    "exif_rotated": Kind("note", "{name} is stored turned or mirrored; it is put upright for training: nothing to do."),
}  # fmt: skip


def problem(path: Path, kind: str, **values: object) -> Problem:
    """A Problem of a kind in KINDS, its sentence filled in with the file's name and `values`."""
    known = KINDS[kind]
    filled = {"name": printable(path.name), "text_name": printable(path.with_suffix(".txt").name)}
    filled |= {key: printable(str(value)) for key, value in values.items()}
    message = known.template.format(**filled)
    return Problem(path, kind, message, known.level == "left out", tuple(sorted(filled.items())))


def level(told: Problem) -> Level:
    """How much a problem weighs: "left out", "warning" or "note"."""
    return KINDS[told.kind].level


def printable(text: str) -> str:
    """`text` without what no terminal or page can show: names on Linux may hold bytes that are no UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")
