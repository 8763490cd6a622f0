"""What can be done with a run's files: count them, rename, delete to the trash and bring back."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lora_core.errors import UserError
from lora_core.runs import lock
from lora_core.runs.index import Row
from lora_core.runs.run import PARTS, SHEET, Run
from lora_core.system import trash
from lora_core.system.file_names import check_name, next_free
from lora_core.system.files import TEMPORARY_SUFFIX, WriteError, explain, replace_with_retry, write_text_whole

_LITTER = ("desktop.ini", "thumbs.db", ".ds_store")  # what systems leave in folders by themselves


@dataclass(frozen=True)
class Contents:
    """What a run consists of. `stays`: what else lies in its folder and is no part of it, by name."""

    parts: tuple[Path, ...]
    files: int
    size: int  # bytes
    checkpoints: int
    samples: int
    stays: tuple[str, ...]


@dataclass(frozen=True)
class Removal:
    """A deleted run, to be brought back: its name, and the parts where its folder stays for what else is in it."""

    name: str
    folder: Path
    gone: trash.Discarded
    parts: tuple[str, ...] = ()


def contents(row: Row) -> Contents:
    """The parts of a run; older runs in `previous/`, other runs and a person's own files are none of them."""
    parts: list[Path] = []
    stays: list[Path] = []
    for path in sorted(row.run.folder.iterdir()):
        (parts if _is_part(path, row) else stays).append(path)
    sizes = [size for part in parts for _, size in files_of(part)]
    return Contents(
        tuple(parts), len(sizes), sum(sizes),
        len(row.run.checkpoint_loras()), len([*row.run.samples.glob("step_*.png")]),
        tuple(path.name for path in stays),
    )  # fmt: skip


def files_of(path: Path) -> Iterator[tuple[Path, int]]:
    """The files at or below a path with their bytes; what vanishes meanwhile is passed over."""
    for file in sorted(path.rglob("*")) if path.is_dir() and not path.is_symlink() else [path]:
        with contextlib.suppress(OSError):
            if file.is_file():
                yield file, file.stat().st_size


def delete(row: Row, root: Path, system: trash.System | None = None) -> Removal:
    """Move a run to the trash: its folder, or its parts where something else lies there too.

    Raises:
        UserError: it could not be moved, and is where it was.
    """
    folder, found = row.run.folder, contents(row)
    if not found.stays and folder.absolute() != root.absolute():
        return Removal(row.name, folder, trash.discard(folder, system))
    name = f"{folder.name} {time.strftime('%Y-%m-%d %H-%M-%S')}"
    aside = folder / next_free(name, lambda free: os.path.lexists(folder / free))
    names = tuple(part.name for part in found.parts)
    try:
        aside.mkdir()
        for name in names:
            replace_with_retry(folder / name, aside / name)
        return Removal(row.name, folder, trash.discard(aside, system), names)
    except (OSError, UserError) as cause:
        _move_back(aside, folder)
        if isinstance(cause, UserError):
            raise
        raise UserError("system.not_deleted", path=folder, why=cause.strerror or str(cause)) from cause


def restore(removal: Removal, system: trash.System | None = None) -> Path:
    """Bring a deleted run back to where it was; returns its folder.

    Raises:
        UserError: its place is taken by a newer run, or the trash was emptied.
    """
    taken = [name for name in removal.parts if os.path.lexists(removal.folder / name)]
    if taken:
        raise UserError("runs.exists_again", path=removal.folder / taken[0])
    there = trash.bring_back(removal.gone, system)
    if removal.parts:
        _move_back(there, removal.folder)
    return removal.folder


def rename(row: Row, name: str, root: Path) -> Path:
    """Give a run's folder another name; its settings follow. Returns the folder.

    Raises:
        UserError: no name for a folder, one that is taken, or a folder that is no run's own.
    """
    folder = row.run.folder
    if folder.absolute() == root.absolute():
        raise UserError("runs.holds_all", folder=folder)
    if name == folder.name:
        return folder
    check_name(name, folder.parent)
    target = folder.with_name(name)
    if name.lower() in ("previous", trash.FOLDER_BESIDE) or name.startswith("."):
        raise UserError("runs.reserved_name", name=name)
    if os.path.lexists(target) and not _is_same(folder, target):
        raise UserError("runs.folder_taken", name=name)
    try:
        os.rename(folder, target)
    except OSError as cause:
        raise UserError(explain(cause, target)) from cause
    if row.config is not None and not row.is_previous:
        with contextlib.suppress(WriteError):  # only a note: what uses a run goes by the folder it lies in
            write_text_whole(Run(target).config_file, row.config.replace(output_dir=str(target)).to_toml())
    return target


def _is_part(path: Path, row: Row) -> bool:
    names = {*PARTS, SHEET, lock.NAME}
    own = [row.config.output_name if row.config else "", Path(row.summary.lora).stem]
    is_named = any(path.name.startswith(f"{name}.") for name in own if name) and path.is_file()
    is_litter = path.name.lower() in _LITTER or path.name.endswith(TEMPORARY_SUFFIX)
    return path.name in names or is_named or is_litter


def _move_back(aside: Path, folder: Path) -> None:
    for path in [*aside.glob("*")] if aside.is_dir() else []:
        replace_with_retry(path, folder / path.name)
    with contextlib.suppress(OSError):
        aside.rmdir()


def _is_same(one: Path, other: Path) -> bool:
    """Whether only upper and lower case differ, on a disk that does not tell them apart."""
    with contextlib.suppress(OSError):
        return os.path.samefile(one, other)
    return False
