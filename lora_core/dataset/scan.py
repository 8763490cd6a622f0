"""Folder in, dataset out: every picture decoded once, every caption read, everything odd told by file."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lora_core.dataset.captions import UNKNOWN, caption_bytes, caption_path, clean, decode, has_junk
from lora_core.dataset.inspection import Look, look
from lora_core.dataset.items import Dataset, Item, Problem, printable, problem
from lora_core.dataset.listing import Listing, list_folder
from lora_core.dataset.pictures import PictureError
from lora_core.dataset.quality import workers
from lora_core.errors import UserError

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


def scan(folder: Path, trigger_word: str = "", on_progress: Callable[[int, int], None] | None = None) -> Dataset:
    """Read the pictures of `folder` and its sub-folders with their captions (`000.png` with `000.txt`).

    A picture without a caption gets the trigger word, else its file name made readable, else none; each is told.
    Unreadable pictures are told and left out. A sub-folder `10_name` repeats its pictures ten times per epoch.
    `on_progress(done, total)` is called in this thread after each picture; an error it raises ends the scan.
    Raises UserError when the folder is missing or holds no readable picture.
    """
    listing = list_folder(folder)
    if not listing.pictures:
        raise UserError(_no_pictures(folder, listing))
    dataset = _read(folder, listing, trigger_word, on_progress)
    if not dataset.items:
        raise UserError(_none_readable(folder, listing.pictures, dataset.problems))
    return dataset


def survey(folder: Path, trigger_word: str = "", on_progress: Callable[[int, int], None] | None = None) -> Dataset:
    """What `scan` reads, also of a folder without a readable picture: its problems say why there is none.

    Raises UserError when the folder is missing.
    """
    return _read(folder, list_folder(folder), trigger_word, on_progress)


def _read(
    folder: Path, listing: Listing, trigger_word: str, on_progress: Callable[[int, int], None] | None
) -> Dataset:
    problems = [problem(path, "folder") for path in listing.folders]
    problems += [problem(path, "unknown_suffix") for path in listing.others]
    problems += [problem(path, "no_access", why=why) for path, why in listing.closed]
    problems += _shared_captions(listing.pictures)
    repeats, told = _repeats({path.parent for path in listing.pictures})
    problems += told
    items: list[Item] = []
    for done, (path, seen) in enumerate(_looked_at(listing.pictures), start=1):
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
    return Dataset(folder, tuple(items), tuple(problems))


def _looked_at(paths: Sequence[Path]) -> Iterator[tuple[Path, Look | Problem]]:
    def one(path: Path) -> Look | Problem:
        try:
            return look(path)
        except PictureError as error:
            return error.problem

    pool = ThreadPoolExecutor(workers())
    try:
        yield from zip(paths, pool.map(one, paths), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)


def _caption(picture: Path, trigger_word: str) -> tuple[str, list[Problem]]:
    """The caption to train on, on one line, and what was odd about its file."""
    path = caption_path(picture)
    instead = trigger_word or _readable(picture.stem)
    shown = f'"{instead}"' if instead else "an empty caption"
    try:
        raw, encoding = decode(caption_bytes(path))
    except FileNotFoundError:
        return instead, [problem(picture, "missing_caption", caption=shown)]
    except OSError as error:
        return instead, [problem(picture, "caption_no_access", caption=shown, why=error.strerror or error)]
    told = []
    if encoding == UNKNOWN:
        told.append(problem(picture, "caption_unreadable"))
    elif encoding not in ("utf-8", "utf-8-sig"):
        told.append(problem(picture, "caption_encoding", encoding=encoding))
    if has_junk(raw):
        told.append(problem(picture, "caption_controls"))
    text = " ".join(clean(raw).split())
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


def _extension(path: Path, seen: Look) -> list[Problem]:
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


def _no_pictures(folder: Path, listing: Listing) -> str:
    wanted = "PNG, JPEG, WebP or BMP"
    if listing.others:
        kinds = ", ".join(sorted({path.suffix.lower() for path in listing.others}))
        return f"{folder} holds no {wanted} pictures, only {kinds}: save them as PNG or JPEG."
    return f"{folder} holds no pictures: put {wanted} files there, each with a .txt of the same name."


def _none_readable(folder: Path, pictures: Sequence[Path], problems: Sequence[Problem]) -> str:
    reasons = [each.message for each in problems if each.excluded and each.path in pictures]
    more = f" ({len(reasons) - 3} more files like this.)" if len(reasons) > 3 else ""
    return f"No picture in {folder} can be read: {' '.join(reasons[:3])}{more}"
