"""What can be done about a problem of the quality report with one click. Every fix is an edit of the CaptionBook, so
undo takes it back: nothing is deleted, files move to `.treino/` inside the dataset folder.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from lora_core.dataset.caption_book import CaptionBook
from lora_core.dataset.caption_history import Move
from lora_core.dataset.captions import caption_path
from lora_core.dataset.items import Problem
from lora_core.dataset.pictures import opened, orientation, upright
from lora_core.errors import UserError
from lora_core.files import write_bytes_whole

LEFT_OUT, BEFORE, MADE = ".treino/left_out", ".treino/before", ".treino/made"
LEAVE_OUT, TURN, TO_UTF8, RENAME = "leave_out", "turn", "to_utf8", "rename"
_CAPTION_KINDS = ("caption_encoding", "caption_controls", "caption_unreadable")
_KEPT = ("repeats_ignored", "unknown_suffix", "folder", "no_access")  # not about one picture that could be moved


def fixes_for(problem: Problem) -> tuple[str, ...]:
    """The fixes that make sense for a problem, the best first."""
    if problem.kind in _CAPTION_KINDS:
        return (TO_UTF8,)
    if problem.kind == "wrong_extension":
        return (RENAME,)
    if problem.kind in _KEPT:
        return ()
    return (LEAVE_OUT,) if problem.kind not in ("empty_caption", "missing_caption", "long_caption") else ()


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
    """Turn a picture clockwise by quarters; the one before is kept. JPEG is written anew at quality 95.

    Raises:
        PictureError: it cannot be decoded.
    """
    assert quarters in (1, 2, 3), quarters
    with opened(picture) as image:
        kind, profile = image.format or "PNG", image.info.get("icc_profile")
        kind = "JPEG" if kind == "MPO" else kind  # its second picture, another view, would not be turned
        image.load()
        turned = upright(image, orientation(image)).transpose(
            (Image.Transpose.ROTATE_270, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_90)[quarters - 1]
        )
    buffer = io.BytesIO()
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    turned.save(buffer, kind, **options, **({"icc_profile": profile} if profile else {}))
    made = _place(MADE, picture.name)
    folder.joinpath(made).parent.mkdir(parents=True, exist_ok=True)
    write_bytes_whole(folder / made, buffer.getvalue())
    book.move([_aside(folder, picture, BEFORE), Move(made, _relative(folder, picture))], label)


def to_utf8(book: CaptionBook, picture: Path, label: str) -> None:
    """Write a picture's caption anew as UTF-8, without control characters."""
    if not book.apply({picture: book.captions[picture]}, label):
        raise UserError(f"The caption of {picture.name} is UTF-8 already.")


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


def _relative(folder: Path, file: Path) -> str:
    return file.relative_to(folder).as_posix()
