"""What can be done about a problem of the quality report with one click. Every fix is an edit of the CaptionBook, so
undo takes it back: nothing is deleted, files move to `.treino/` inside the dataset folder.
"""

from __future__ import annotations

import io
import uuid
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from lora_core.dataset.caption_editor import CaptionBook
from lora_core.dataset.captions import caption_path
from lora_core.dataset.edit_log import Change, Move
from lora_core.dataset.items import Problem
from lora_core.dataset.pictures import load_picture, opened, orientation, upright
from lora_core.errors import UserError
from lora_core.system.file_names import next_free
from lora_core.system.files import write_bytes_whole

LEFT_OUT, BEFORE, MADE, ADDED = ".treino/left_out", ".treino/before", ".treino/made", ".treino/added"
LEAVE_OUT, TURN, UPRIGHT, TO_UTF8, RENAME = "leave_out", "turn", "upright", "to_utf8", "rename"
TO_PNG, KEEP_CAPTION, SEPARATE = "to_png", "keep_caption", "separate"
_FIXES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("empty_file", "not_a_picture", "truncated", "damaged", "too_large"), (LEAVE_OUT,)),
    **dict.fromkeys(("tiny", "extreme_aspect", "blurred", "near_duplicate"), (LEAVE_OUT,)),
    **dict.fromkeys(("caption_encoding", "caption_controls", "caption_unreadable"), (TO_UTF8,)),
    **dict.fromkeys(("animated", "cmyk", "unknown_suffix"), (TO_PNG,)),
    **dict.fromkeys(("missing_caption", "empty_caption"), (KEEP_CAPTION,)),
    "wrong_extension": (RENAME,), "same_stem": (SEPARATE, LEAVE_OUT), "exif_rotated": (UPRIGHT,),
}  # fmt: skip
_TURNS = (Image.Transpose.ROTATE_270, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_90)
_READABLE = (".gif", ".tif", ".tiff", ".avif", ".jfif")  # of the kinds that no trainer takes, those Pillow opens


def fixes_for(problem: Problem) -> tuple[str, ...]:
    """The fixes that make sense for a problem, the best first."""
    if problem.kind == "unknown_suffix" and problem.path.suffix.lower() not in _READABLE:
        return ()
    if _FIXES.get(problem.kind) == (KEEP_CAPTION,) and not stand_in(problem):
        return ()
    return _FIXES.get(problem.kind, ())


def stand_in(problem: Problem) -> str:
    """What a picture without a caption is trained on; "" for nothing."""
    shown = dict(problem.values).get("caption", "")
    return shown[1:-1] if shown.startswith('"') else ""


def leave_out(book: CaptionBook, folder: Path, pictures: Sequence[Path], label: str) -> None:
    """Take pictures and their captions out of the dataset, into `.treino/left_out`."""
    moves, going = [], {picture.resolve() for picture in pictures}
    for picture in pictures:
        moves.append(_aside(folder, picture, LEFT_OUT))
        caption = caption_path(picture)
        shared = any(caption_path(other) == caption and other.resolve() not in going for other in book.captions)
        if caption.is_file() and not shared and not any(move.source == _relative(folder, caption) for move in moves):
            moves.append(_aside(folder, caption, LEFT_OUT))
    book.move(moves, label)


def turn(book: CaptionBook, folder: Path, picture: Path, quarters: int, label: str) -> None:
    """Turn a picture clockwise by quarters; by none, it is stored upright. JPEG is written anew at quality 95.

    Raises:
        PictureError: it cannot be decoded.
        UserError: it has several frames, all but one of which would be lost.
    """
    with opened(picture) as image:
        kind, profile = image.format or "PNG", image.info.get("icc_profile")
        if kind != "MPO" and getattr(image, "is_animated", False):
            raise UserError(f"{picture.name} has several frames and is not turned: save the frame you want as PNG first.")
        kind = "JPEG" if kind == "MPO" else kind  # its second picture, another view, would not be turned
        image.load()
        turned = upright(image, orientation(image))
        if quarters % 4:
            turned = turned.transpose(_TURNS[quarters % 4 - 1])
    buffer = io.BytesIO()
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    turned.save(buffer, kind, **options, **({"icc_profile": profile} if profile else {}))
    _put_in_place(book, folder, picture, (picture, buffer.getvalue()), label)


def to_png(book: CaptionBook, folder: Path, picture: Path, label: str) -> None:
    """A picture of another kind as PNG, the way training sees it: its first frame, upright, 8 bits, sRGB.

    Raises:
        PictureError: it cannot be decoded.
        WriteError: there is a PNG of that name already.
    """
    buffer = io.BytesIO()
    load_picture(picture).save(buffer, "PNG")
    _put_in_place(book, folder, picture, (picture.with_suffix(".png"), buffer.getvalue()), label)


def _put_in_place(book: CaptionBook, folder: Path, old: Path, new: tuple[Path, bytes], label: str) -> None:
    """Move the old picture aside and the new one, (path, content), to its place."""
    path, content = new
    made = _place(MADE, path.name)
    folder.joinpath(made).parent.mkdir(parents=True, exist_ok=True)
    write_bytes_whole(folder / made, content)
    book.move([_aside(folder, old, BEFORE), Move(made, _relative(folder, path))], label)


def to_utf8(book: CaptionBook, picture: Path, label: str) -> None:
    """Write a picture's caption anew as UTF-8, without control characters."""
    if not book.apply({picture: book.captions[picture]}, label):
        raise UserError(f"The caption of {picture.name} is UTF-8 already.")


def keep_caption(book: CaptionBook, picture: Path, text: str, label: str) -> None:
    """Write down what a picture without a caption is trained on anyway."""
    book.apply({picture: text}, label)


def separate(book: CaptionBook, folder: Path, picture: Path, label: str) -> None:
    """Give a picture that shares its caption a name, and a copy of the caption, of its own."""
    caption, own = caption_path(picture), _free_stem(picture)
    changes = []
    if caption.is_file():
        changes = [Change(_relative(folder, own.with_suffix(".txt")), None, caption.read_bytes())]
    book.move([Move(_relative(folder, picture), _relative(folder, own))], label, changes)


def add(book: CaptionBook, folder: Path, files: Sequence[Path], label: str) -> list[Path]:
    """Move new pictures and captions, which lie below `.treino/added`, into the folder; returns where they lie then.

    Where a name is taken, the picture and its caption get a free one; nothing is written over.
    """
    groups: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        groups[file.stem].append(file)
    moves, placed = [], []
    for stem, group in groups.items():
        taken = any(folder.joinpath(file.name).exists() for file in group)
        free = _free_stem(folder / f"{stem}.png").stem if taken else stem
        for file in group:
            target = folder / f"{free}{file.suffix}"
            moves.append(Move(_relative(folder, file), _relative(folder, target)))
            placed.append(target)
    book.move(moves, label)
    return placed


def rename(book: CaptionBook, folder: Path, picture: Path, better: str, label: str) -> None:
    """Give a picture the ending that says what it is; its caption has the same stem and stays."""
    if "/" in better or "\\" in better:
        raise UserError(f"{better} is no file name.")
    book.move([Move(_relative(folder, picture), _relative(folder, picture.with_name(better)))], label)


def _aside(folder: Path, file: Path, place: str) -> Move:
    source = _relative(folder, file)
    return Move(source, _place(place, source))


def _place(kind: str, source: str) -> str:
    """A place of its own: a file that undo brought out of one must find it free when redo or undo puts it back."""
    return f"{kind}/{uuid.uuid4().hex[:12]}/{source}"


def _free_stem(path: Path) -> Path:
    """The path with a number after its stem, such that no file beside it has that stem."""
    taken = {path.stem.casefold(), *(other.stem.casefold() for other in path.parent.iterdir())}
    return path.with_stem(next_free(path.stem, lambda stem: stem.casefold() in taken, joint="-"))


def _relative(folder: Path, file: Path) -> str:
    return file.relative_to(folder).as_posix()
