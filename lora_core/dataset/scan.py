"""Folder in, dataset out: every picture decoded once, every caption read, everything odd told by file."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path

from lora_core.dataset.captions import UNKNOWN, caption_path, read_caption, why_unreadable
from lora_core.dataset.inspection import Inspection
from lora_core.dataset.items import Dataset, Item, Problem, printable, problem
from lora_core.dataset.listing import Listing, list_folder
from lora_core.dataset.quality import inspect_all
from lora_core.errors import UserError
from lora_core.messages import Message

MAX_CAPTION = 10_000  # characters; the models read some 300, and tokenizers take minutes over a megabyte
MAX_REPEATS = 200  # "10_name" means ten repeats, but "2023_holiday" is a year
# Pillow's name of a format, the suffixes it goes by and the one to recommend.
_SUFFIXES = {
    "PNG": (".png",), "JPEG": (".jpg", ".jpeg"), "MPO": (".jpg", ".jpeg"), "WEBP": (".webp",), "BMP": (".bmp",),
    "DIB": (".bmp",), "GIF": (".gif",), "TIFF": (".tif", ".tiff"), "AVIF": (".avif",), "JPEG2000": (".jp2",),
}  # fmt: skip
_CAMERA_NAMES = {
    "img",
    "image",
    "dsc",
    "dscf",
    "dscn",
    "pxl",
    "pict",
    "picture",
    "photo",
    "foto",
    "imagem",
    "screenshot",
}


def scan(
    folder: Path,
    trigger_word: str = "",
    on_progress: Callable[[int, int], None] | None = None,
    *,
    may_be_empty: bool = False,
) -> Dataset:
    """Read the pictures of `folder` and its sub-folders with their captions (`000.png` with `000.txt`).

    A picture without a caption gets the trigger word, else its file name made readable, else none; each is told.
    Unreadable pictures are told and left out. A sub-folder `10_name` repeats its pictures ten times per epoch.
    `on_progress(done, total)` is called in this thread after each picture; an error it raises ends the scan.

    Raises:
        UserError: the folder is missing, or holds no readable picture and not `may_be_empty`; the problems say why.
    """
    listing = list_folder(folder)
    if not listing.pictures and not may_be_empty:
        raise UserError(_no_pictures(folder, listing))
    problems, repeats = _of_folders(listing)
    items: list[Item] = []
    for done, (path, seen) in enumerate(zip(listing.pictures, inspect_all(listing.pictures), strict=True), start=1):
        if isinstance(seen, Problem):
            problems.append(seen)
        else:
            caption, told = _caption(path, trigger_word.strip())
            items.append(Item(path, caption, seen.width, seen.height, repeats[path.parent]))
            problems += told + _extension(path, seen)
        if on_progress is not None:
            on_progress(done, len(listing.pictures))
    place = {path: n for n, path in enumerate(listing.pictures)}
    problems.sort(key=lambda each: place.get(each.path, -1))
    if not items and not may_be_empty:
        raise UserError(_none_readable(folder, listing.pictures, problems))
    return Dataset(folder, tuple(items), tuple(problems))


def _of_folders(listing: Listing) -> tuple[list[Problem], dict[Path, int]]:
    """What is told of names alone, and how often the pictures of each folder are repeated."""
    problems = [problem(path, "folder") for path in listing.folders]
    problems += [problem(path, "unknown_suffix") for path in listing.others]
    problems += [problem(path, "no_access", why=why) for path, why in listing.closed]
    problems += _shared_captions(listing.pictures)
    repeats, told = _repeats({path.parent for path in listing.pictures})
    return problems + told, repeats


def _caption(picture: Path, trigger_word: str) -> tuple[str, list[Problem]]:
    """The caption to train on, on one line, and what was odd about its file."""
    path = caption_path(picture)
    instead = trigger_word or _readable(picture.stem)
    shown = f'"{instead}"' if instead else Message("dataset.value_empty_caption")
    try:
        found = read_caption(path)
    except FileNotFoundError:
        return instead, [problem(picture, "missing_caption", caption=shown)]
    except OSError as error:
        return instead, [problem(picture, "caption_no_access", caption=shown, why=why_unreadable(error))]
    told = []
    if found.encoding == UNKNOWN:
        told.append(problem(picture, "caption_unreadable"))
    elif found.encoding not in ("utf-8", "utf-8-sig"):
        told.append(problem(picture, "caption_encoding", encoding=found.encoding))
    if found.has_junk:
        told.append(problem(picture, "caption_controls"))
    text = " ".join(found.text.split())
    if not text:
        return instead, [*told, problem(picture, "empty_caption", caption=shown)]
    if len(text) > MAX_CAPTION:
        told.append(problem(picture, "caption_cut", length=len(text), limit=MAX_CAPTION))
    return text[:MAX_CAPTION], told


def _readable(stem: str) -> str:
    """ "red_ball-02" -> "red ball"; "" for what says nothing: numbers alone, or the names cameras give."""
    words = re.sub(r"[\W_]+", " ", printable(stem)).split()
    words = [word for word in words if not re.fullmatch(r"\d+|[A-Za-z]{0,4}\d{3,}", word)]
    return "" if {word.casefold() for word in words} <= _CAMERA_NAMES else " ".join(words)


def _extension(path: Path, seen: Inspection) -> list[Problem]:
    fitting = _SUFFIXES.get(seen.format, (path.suffix.lower(),))
    if path.suffix.lower() in fitting:
        return []
    name = "JPEG" if seen.format == "MPO" else seen.format
    return [problem(path, "wrong_extension", format=name, better=path.with_suffix(fitting[0]).name)]


def _shared_captions(pictures: Sequence[Path]) -> list[Problem]:
    groups: dict[Path, list[Path]] = defaultdict(list)
    for path in pictures:
        groups[path.with_suffix("")].append(path)
    return [problem(path, "same_stem", other=group[0].name) for group in groups.values() for path in group[1:]]


def _repeats(folders: set[Path]) -> tuple[dict[Path, int], list[Problem]]:
    repeats, told = {}, []
    for folder in sorted(folders):
        match = re.match(r"(\d{1,9})_", folder.resolve().name)
        count = int(match[1]) if match else 1
        if not 1 <= count <= MAX_REPEATS:
            told.append(problem(folder, "repeats_ignored", folder=folder.resolve().name, count=count))
            count = 1
        repeats[folder] = count
    return repeats, told


def _no_pictures(folder: Path, listing: Listing) -> Message:
    wanted = Message("dataset.picture_kinds")
    if listing.others:
        kinds = sorted({path.suffix.lower() for path in listing.others})
        return Message("dataset.folder_others", folder=folder, wanted=wanted, kinds=kinds)
    return Message("dataset.folder_empty", folder=folder, wanted=wanted)


def _none_readable(folder: Path, pictures: Sequence[Path], problems: Sequence[Problem]) -> Message:
    reasons = [each.message for each in problems if each.excluded and each.path in pictures]
    more = Message("dataset.more_unreadable", count=len(reasons) - 3) if len(reasons) > 3 else ""
    said = reduce(lambda first, then: Message("dataset.sentences", first=first, then=then), reasons[:3])
    return Message("dataset.none_readable", folder=folder, reasons=said, more=more)
