"""Several files that belong together, put into a folder all or none."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from lora_core.system import windows
from lora_core.system.files import TEMPORARY_SUFFIX, WriteError, explain, free_bytes, fsync_folder, replace_with_retry

_ALLOWANCE = 1_000_000  # bytes kept free beyond the files


def place(contents: Mapping[Path, bytes], verify: Callable[[Path, Path], None]) -> None:
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
            _write(staged[path], data)
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


def _check_space(folder: Path, contents: Mapping[Path, bytes]) -> None:
    # What is replaced counts too: a disk without hard links keeps it aside as a copy.
    needed = sum(len(data) + (path.stat().st_size if path.is_file() else 0) for path, data in contents.items())
    if (free := free_bytes(folder)) < needed + _ALLOWANCE:
        raise WriteError(
            f"The disk is full: {folder} needs {needed / 1e6:.0f} MB and {free / 1e6:.0f} MB are free. "
            "Free some space and try again."
        )


def _temporary(folder: Path) -> Path:
    return windows.reachable(folder / f".{os.getpid()}-{secrets.token_hex(6)}{TEMPORARY_SUFFIX}")


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


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
