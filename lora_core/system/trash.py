"""Delete to where the system keeps what was deleted, and bring it back from there.

Windows: the recycle bin. macOS: the Trash. Linux: the trash of the freedesktop specification 1.0. Where a disk has
none of them, a folder `.trash` beside what was deleted. Nothing is ever deleted for good here.

Not by send2trash: it does not say where a thing went, which bringing it back needs, and under Windows without pywin32 it
deletes for good, unasked, what the bin cannot hold.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from lora_core.errors import UserError
from lora_core.system import recycle_bin
from lora_core.system.file_names import next_free, numbered
from lora_core.system.files import explain

BIN, TRASH, BESIDE = "bin", "trash", "beside"
FOLDER_BESIDE = ".trash"


@dataclass(frozen=True)
class Discarded:
    """What was deleted, and what bringing it back needs. kind: BIN, TRASH or BESIDE.

    kept: where it lies now; None in Windows' bin, which alone knows. info: its .trashinfo, where there is one.
    """

    original: Path
    kind: str
    at: float  # Unix seconds
    kept: Path | None = None
    info: Path | None = None


@dataclass(frozen=True)
class System:
    """What deleting depends on; tests give their own. `bin_folder` None: that of the disk."""

    platform: str
    home: Path
    environment: Mapping[str, str]
    windows: recycle_bin.Shell | None = None
    bin_folder: Path | None = None


def here() -> System:
    """This computer."""
    return System(sys.platform, Path.home(), os.environ, recycle_bin.shell())


def discard(path: Path, system: System | None = None) -> Discarded:
    """Move a file or folder to the trash.

    Raises:
        UserError: it is not there, or could not be moved; then it is where it was.
    """
    system = system or here()
    path = Path(os.path.abspath(path))  # not resolved: a link is what is deleted, not what it points at
    if not os.path.lexists(path):
        raise UserError("system.gone", path=path)
    at = time.time()
    if system.windows is not None and recycle_bin.recycle(path, system.windows):
        return Discarded(path, BIN, at)
    if system.platform == "darwin":
        for trash in _mac_trashes(path, system.home):
            with contextlib.suppress(OSError):  # of another disk, or not allowed: the next will do
                return Discarded(path, TRASH, at, _move_into(path, trash))
    elif system.platform != "win32":
        for trash, top in _linux_trashes(path, system):
            with contextlib.suppress(OSError):
                return Discarded(path, TRASH, at, *_move_with_info(path, trash, top, at))
    try:
        return Discarded(path, BESIDE, at, _move_into(path, path.parent / FOLDER_BESIDE))
    except OSError as cause:
        reason = cause.strerror or str(cause)
        raise UserError("system.not_deleted", path=path, why=reason) from cause


def bring_back(gone: Discarded, system: System | None = None) -> Path:
    """Move what was deleted back to where it was.

    Raises:
        UserError: something else has its place, the trash was emptied, or it could not be moved.
    """
    if os.path.lexists(gone.original):
        raise UserError("system.exists_again", path=gone.original)
    kept, info = gone.kept, gone.info
    if gone.kind == BIN:
        kept, info = recycle_bin.find(gone.original, gone.at, (system or here()).bin_folder) or (None, None)
    if kept is None or not os.path.lexists(kept):
        raise UserError("system.not_in_trash", name=gone.original.name)
    try:
        gone.original.parent.mkdir(parents=True, exist_ok=True)
        os.rename(kept, gone.original)
        if info is not None:
            info.unlink(missing_ok=True)
        if gone.kind == BESIDE:
            with contextlib.suppress(OSError):  # other things are still in it
                kept.parent.rmdir()
    except OSError as cause:
        raise UserError(explain(cause, gone.original)) from cause
    return gone.original


def _move_into(path: Path, trash: Path) -> Path:
    """Rename into a folder, never onto something that lies there."""
    trash.mkdir(mode=0o700, exist_ok=True)
    target = trash / next_free(path.stem, lambda name: os.path.lexists(trash / name), path.suffix)
    os.rename(path, target)
    return target


def _mac_trashes(path: Path, home: Path) -> Iterator[Path]:
    """The user's, which takes what lies on the same disk, and the user's own of the other disk."""
    yield home / ".Trash"
    if sys.platform != "win32":
        yield _top(path) / ".Trashes" / str(os.getuid())


def _linux_trashes(path: Path, system: System) -> Iterator[tuple[Path, Path | None]]:
    """(trash, top of its disk), best first; no top where .trashinfo holds whole paths, as in the home trash."""
    if sys.platform == "win32":
        return
    data = Path(system.environment.get("XDG_DATA_HOME") or system.home / ".local" / "share")
    yield data / "Trash", None
    top, user = _top(path), os.getuid()
    shared = top / ".Trash"
    with contextlib.suppress(OSError):
        mode = os.lstat(shared).st_mode
        if stat.S_ISDIR(mode) and mode & stat.S_ISVTX:  # else anyone could have put it there: the specification says so
            yield shared / str(user), top
    yield top / f".Trash-{user}", top


def _top(path: Path) -> Path:
    """The folder at which the disk of `path` is mounted."""
    device, top = os.lstat(path).st_dev, path.parent
    while top != top.parent and os.lstat(top.parent).st_dev == device:
        top = top.parent
    return top


def _move_with_info(path: Path, trash: Path, top: Path | None, at: float) -> tuple[Path, Path]:
    """Rename into `files/`, after `info/` says what it is; taking the info file's name takes the other's too."""
    files, infos = trash / "files", trash / "info"
    files.mkdir(mode=0o700, parents=True, exist_ok=True)
    infos.mkdir(mode=0o700, parents=True, exist_ok=True)
    said = path.relative_to(top) if top else path
    date = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(at))
    text = f"[Trash Info]\nPath={quote(os.fsencode(said))}\nDeletionDate={date}\n"
    for name in numbered(path.stem, path.suffix):
        info, target = infos / f"{name}.trashinfo", files / name
        try:
            descriptor = os.open(info, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            continue
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode("ascii"))
        if os.path.lexists(target):  # left by a program that lost its info file
            info.unlink()
            continue
        try:
            os.rename(path, target)
        except OSError:
            info.unlink()
            raise
        return target, info
    raise AssertionError("there is always a next name")
