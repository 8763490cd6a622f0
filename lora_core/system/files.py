"""Files that are whole or absent: whatever happens while one is written, the old content or the new one is there.

Every file Treino writes goes through here: a temporary file in the same folder, flush, fsync, `os.replace` onto the
name, fsync of the folder. A write that fails raises `WriteError` and leaves what was there before.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lora_core.errors import UserError
from lora_core.messages import Message
from lora_core.system import windows

TEMPORARY_SUFFIX = ".treino.tmp"
_ALLOWANCE = 1_000_000  # bytes kept free beyond files that are written together
Kept = TypeVar("Kept", dict[str, Any], list[Any])
PATIENCE_S = 5.0  # a virus scanner or an indexer lets go of a file it looks at within a second or two


class WriteError(UserError):
    """A file could not be written; the sentence names the cause and the fix, `__cause__` is the OSError."""


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give the path of a temporary file beside `path`; on leaving, it takes the place of `path` in one move.

    The block writes the file (and may verify it). When the block raises, the temporary file is deleted and `path`
    is as it was. A symbolic link is followed: the file it points at is the one replaced. Raises WriteError.
    """
    # Only links are resolved: on Windows that turns mapped drives into network paths.
    target = Path(os.path.realpath(path)) if os.path.islink(path) else path
    target, temporary = windows.reachable(target), _temporary(target.parent)
    try:
        yield temporary
        _fsync_file(temporary)
        _keep_mode(target, temporary)
        replace_with_retry(temporary, target)
    except OSError as error:
        raise WriteError(explain(error, path)) from error
    finally:
        with contextlib.suppress(OSError):  # it is gone after a good write, and never worth hiding the real error
            temporary.unlink()
    fsync_folder(target.parent)


def prove_writable(folder: Path) -> None:
    """Raises WriteError, before any work, where no file can be made in the folder. Nothing is left there."""
    # Not by tempfile: on Windows it tries thousands of names in a folder that is not ours to write in.
    probe = _temporary(folder)
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise WriteError(explain(error, folder)) from error


def writable_folder(folder: Path) -> None:
    """Make the folder where it is not there, and prove that it can be written to. Raises WriteError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(explain(error, folder)) from error
    prove_writable(folder)


def stamp(path: Path | str) -> tuple[int, int]:
    """Bytes and time of change (ns) of a file, which are others when it was written; (-1, -1) where it cannot be asked."""
    try:
        found = os.stat(path)
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def stamps_below(folder: Path) -> dict[str, tuple[int, int]]:
    """The stamp of every file below the folder by its path: equal while none is added, removed or written.

    Hidden files and folders are left out.
    """
    found = {}
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (os.path.join(here, name) for name in names if not name.startswith("."))
        found.update({path: stamp(path) for path in paths})
    return found


@dataclass(frozen=True)
class JsonMemo:
    """A small file of what can be found out again: damaged it is as good as none, and not written is no error."""

    path: Path

    def read(self, kind: type[Kept]) -> Kept:
        """What was written, when it is of that kind; else an empty one."""
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError):
            return kind()
        return kept if isinstance(kept, kind) else kind()

    def write(self, value: object) -> bool:
        """Keep a value of JSON's kinds; whether the disk took it."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text_whole(self.path, json.dumps(value, ensure_ascii=False))
        except (OSError, WriteError):
            return False
        return True


def write_bytes_whole(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all. The folder has to exist. Raises WriteError."""
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def write_text_whole(path: Path, text: str) -> None:
    """Write `text` as UTF-8 without a BOM, line ends as they are, whole or not at all. Raises WriteError."""
    write_bytes_whole(path, text.encode("utf-8"))


def write_together(contents: Mapping[Path, bytes], verify: Callable[[Path, Path], None]) -> None:
    """Write files of one folder; each is on disk and verified before the first takes its name.

    A file already there is kept aside until all are in place, and comes back when one cannot be. `verify(temporary,
    final)` raises when a written file is not what was meant.

    Raises:
        WriteError: nothing was changed.
    """
    folder = next(iter(contents)).parent
    _check_space(folder, contents)
    staged: dict[Path, Path] = {}
    aside: dict[Path, Path] = {}
    placed: list[Path] = []
    path = folder
    try:
        for path, data in contents.items():
            staged[path] = _temporary(folder)
            staged[path].write_bytes(data)
            _fsync_file(staged[path])
            verify(staged[path], path)
        for path in contents:
            if path.exists():
                aside[path] = _temporary(folder)
                _keep(path, aside[path])
        for path, temporary in staged.items():
            replace_with_retry(temporary, path)
            placed.append(path)
    except BaseException as error:
        _undo(placed, aside)
        if isinstance(error, OSError):
            raise WriteError(explain(error, path)) from error
        raise
    finally:
        for leftover in (*staged.values(), *aside.values()):
            with contextlib.suppress(OSError):
                leftover.unlink(missing_ok=True)
    fsync_folder(folder)


def replace_with_retry(src: Path, dst: Path, patience_s: float = PATIENCE_S) -> None:
    """Move `src` onto `dst` in one step, waiting while Windows has `dst` open. Raises OSError when it stays so.

    Windows refuses to replace a file that another program holds open (errors 5 and 32, both PermissionError here).
    A folder in the way is no such case and fails at once. A read-only file is replaced, as it is elsewhere.
    """
    pause_s, deadline = 0.01, time.monotonic() + patience_s
    while True:
        try:
            os.replace(src, dst)
            return
        except PermissionError:
            if windows.unprotect(dst):
                continue
            if os.path.isdir(dst) or time.monotonic() + pause_s > deadline:
                raise
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.5)


def fsync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut. Windows cannot open folders and journals renames itself."""
    if os.name == "nt":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # Some network and FUSE file systems have no fsync for folders; there is nothing better to ask of them.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise WriteError(explain(error, folder)) from error


def free_bytes(path: Path) -> int:
    """Bytes free for this user on the disk that holds `path`; what does not exist yet counts as its parent."""
    there = Path(os.path.abspath(path))
    while not there.exists() and there != there.parent:
        there = there.parent
    return shutil.disk_usage(there).free


def remove_stray_temporaries(folder: Path) -> int:
    """Delete what a killed process left half-written in `folder` (not below it); returns how many files.

    Call it only on a folder no other process is writing to.
    """
    strays = [p for p in folder.glob(f".*{TEMPORARY_SUFFIX}") if p.is_file()]
    for stray in strays:
        stray.unlink(missing_ok=True)
    return len(strays)


def explain(error: OSError, path: Path) -> Message:
    """For a person: what could not be written, why, and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Message("system.disk_full", path=path, free=_megabytes(path))
    if error.errno == errno.EROFS or isinstance(error, PermissionError):
        return Message("system.no_permission", path=path)
    if isinstance(error, FileNotFoundError):
        return Message("system.no_folder", path=path, folder=path.parent)
    if isinstance(error, (IsADirectoryError, NotADirectoryError, FileExistsError)):
        return Message("system.in_the_way", path=path)
    if error.errno == errno.ENAMETOOLONG:
        return Message("system.long_path", path=path)
    return Message("system.not_written", path=path, why=error.strerror or str(error))


def _megabytes(path: Path) -> int:
    try:
        return free_bytes(path) // 2**20
    except OSError:
        return 0


def _check_space(folder: Path, contents: Mapping[Path, bytes]) -> None:
    # What is replaced counts too: a disk without hard links keeps it aside as a copy.
    needed = sum(len(data) + (path.stat().st_size if path.is_file() else 0) for path, data in contents.items())
    if (free := free_bytes(folder)) < needed + _ALLOWANCE:
        raise WriteError("system.disk_full_for", folder=folder, needed=needed / 1e6, free=free / 1e6)


def _temporary(folder: Path) -> Path:
    return windows.reachable(folder / f".{os.getpid()}-{secrets.token_hex(6)}{TEMPORARY_SUFFIX}")


def _keep(path: Path, aside: Path) -> None:
    """A second name for the old file; a copy where the disk knows no second names (exFAT, some network shares)."""
    try:
        os.link(path, aside)
    except OSError:
        shutil.copy2(path, aside)


def _undo(placed: list[Path], aside: Mapping[Path, Path]) -> None:
    for path in placed:
        if path in aside:
            replace_with_retry(aside[path], path)
        else:
            path.unlink(missing_ok=True)


def _fsync_file(path: Path) -> None:
    # Opened for writing because Windows flushes only handles that may write.
    with open(path, "r+b") as file:
        os.fsync(file.fileno())


def _keep_mode(old: Path, new: Path) -> None:
    if os.name != "nt" and old.is_file():
        os.chmod(new, stat.S_IMODE(old.stat().st_mode))
