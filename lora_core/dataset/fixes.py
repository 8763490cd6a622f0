"""What can be done about a problem of the quality report with one click. Every fix is an edit of the CaptionEditor,
so undo takes it back: nothing is deleted, files move to `.treino/` inside the dataset folder.
"""

from __future__ import annotations

import io
import uuid
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from PIL import Image

from lora_core.dataset.caption_editor import CaptionEditor
from lora_core.dataset.captions import caption_path
from lora_core.dataset.edit_log import Change, Move, did
from lora_core.dataset.items import Problem
from lora_core.dataset.pictures import load_picture, opened, orientation, upright
from lora_core.errors import UserError
from lora_core.messages import Message
from lora_core.system.file_names import next_free
from lora_core.system.files import write_bytes_whole

LEFT_OUT, BEFORE, MADE, ADDED = ".treino/left_out", ".treino/before", ".treino/made", ".treino/added"
Fix = Literal["leave_out", "upright", "to_utf8", "rename", "to_png", "keep_caption", "separate"]
_FIXES: dict[str, tuple[Fix, ...]] = {
    **dict.fromkeys(("empty_file", "not_a_picture", "truncated", "damaged", "too_large"), ("leave_out",)),
    **dict.fromkeys(("tiny", "extreme_aspect", "blurred", "near_duplicate"), ("leave_out",)),
    **dict.fromkeys(("caption_encoding", "caption_controls", "caption_unreadable"), ("to_utf8",)),
    **dict.fromkeys(("animated", "cmyk", "unknown_suffix"), ("to_png",)),
    **dict.fromkeys(("missing_caption", "empty_caption"), ("keep_caption",)),
    "wrong_extension": ("rename",), "same_stem": ("separate", "leave_out"), "exif_rotated": ("upright",),
}  # fmt: skip
_TURNS = (Image.Transpose.ROTATE_270, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_90)
_READABLE = (".gif", ".tif", ".tiff", ".avif", ".jfif")  # of the kinds that no trainer takes, those Pillow opens


def fixes_for(problem: Problem) -> tuple[Fix, ...]:
    """The fixes that make sense for a problem, the best first."""
    if problem.kind == "unknown_suffix" and problem.path.suffix.lower() not in _READABLE:
        return ()
    if _FIXES.get(problem.kind) == ("keep_caption",) and not stand_in(problem):
        return ()
    return _FIXES.get(problem.kind, ())


def stand_in(problem: Problem) -> str:
    """What a picture without a caption is trained on; "" for nothing."""
    shown = dict(problem.message.params).get("caption")
    return shown[1:-1] if isinstance(shown, str) else ""


def leave_out(editor: CaptionEditor, pictures: Sequence[Path]) -> None:
    """Take pictures and their captions out of the dataset, into `.treino/left_out`."""
    folder, moves, going = editor.folder, [], {picture.resolve() for picture in pictures}
    for picture in pictures:
        moves.append(_aside(folder, picture, LEFT_OUT))
        caption = caption_path(picture)
        shared = any(caption_path(other) == caption and other.resolve() not in going for other in editor.captions)
        if caption.is_file() and not shared and not any(move.source == _relative(folder, caption) for move in moves):
            moves.append(_aside(folder, caption, LEFT_OUT))
    what = _relative(folder, pictures[0]) if len(pictures) == 1 else str(len(pictures))
    editor.move(moves, did("leave_out", what=what))


def turn(editor: CaptionEditor, picture: Path, quarters: int) -> None:
    """Turn a picture clockwise by quarters; by none, it is stored upright. JPEG is written anew at quality 95.

    Raises:
        PictureError: it cannot be decoded.
        UserError: it has several frames, all but one of which would be lost.
    """
    with opened(picture) as image:
        kind, profile = image.format or "PNG", image.info.get("icc_profile")
        if kind != "MPO" and getattr(image, "is_animated", False):
            raise UserError("dataset.frames", name=picture.name)
        kind = "JPEG" if kind == "MPO" else kind  # its second picture, another view, would not be turned
        image.load()
        turned = upright(image, orientation(image))
        if quarters % 4:
            turned = turned.transpose(_TURNS[quarters % 4 - 1])
    buffer = io.BytesIO()
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    turned.save(buffer, kind, **options, **({"icc_profile": profile} if profile else {}))
    name = _relative(editor.folder, picture)
    _put_in_place(editor, picture, (picture, buffer.getvalue()), did("turn" if quarters % 4 else "upright", name=name))


def to_png(editor: CaptionEditor, picture: Path) -> None:
    """A picture of another kind as PNG, the way training sees it: its first frame, upright, 8 bits, sRGB.

    Raises:
        PictureError: it cannot be decoded.
        WriteError: there is a PNG of that name already.
    """
    buffer = io.BytesIO()
    load_picture(picture).save(buffer, "PNG")
    made = (picture.with_suffix(".png"), buffer.getvalue())
    _put_in_place(editor, picture, made, did("to_png", name=_relative(editor.folder, picture)))


def _put_in_place(editor: CaptionEditor, old: Path, new: tuple[Path, bytes], name: Message) -> None:
    """Move the old picture aside and the new one, (path, content), to its place."""
    folder, (path, content) = editor.folder, new
    made = _place(MADE, path.name)
    folder.joinpath(made).parent.mkdir(parents=True, exist_ok=True)
    write_bytes_whole(folder / made, content)
    editor.move([_aside(folder, old, BEFORE), Move(made, _relative(folder, path))], name)


def to_utf8(editor: CaptionEditor, picture: Path) -> None:
    """Write a picture's caption anew as UTF-8, without control characters."""
    name = did("to_utf8", name=_relative(editor.folder, picture))
    if not editor.apply({picture: editor.captions[picture]}, name):
        raise UserError("dataset.is_utf8", name=picture.name)


def keep_caption(editor: CaptionEditor, picture: Path, text: str) -> None:
    """Write down what a picture without a caption is trained on anyway."""
    editor.apply({picture: text}, did("keep_caption", name=_relative(editor.folder, picture)))


def separate(editor: CaptionEditor, picture: Path) -> None:
    """Give a picture that shares its caption a name, and a copy of the caption, of its own."""
    folder, caption, own = editor.folder, caption_path(picture), _free_stem(picture)
    source, changes = _relative(folder, picture), []
    if caption.is_file():
        changes = [Change(_relative(folder, own.with_suffix(".txt")), None, caption.read_bytes())]
    editor.move([Move(source, _relative(folder, own))], did("separate", name=source), changes)


def add(editor: CaptionEditor, files: Sequence[Path]) -> list[Path]:
    """Move new pictures and captions, which lie below `.treino/added`, into the folder; returns where they lie then.

    Where a name is taken, the picture and its caption get a free one; nothing is written over.
    """
    folder = editor.folder
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
    editor.move(moves, did("add", count=str(len(files))))
    return placed


def rename(editor: CaptionEditor, picture: Path, better: str) -> None:
    """Give a picture the ending that says what it is; its caption has the same stem and stays."""
    if "/" in better or "\\" in better:
        raise UserError("dataset.no_file_name", name=better)
    source = _relative(editor.folder, picture)
    editor.move([Move(source, _relative(editor.folder, picture.with_name(better)))], did("rename", name=source))


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
