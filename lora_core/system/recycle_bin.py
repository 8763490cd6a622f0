"""Windows' recycle bin: put things into it, and find them again.

Deleting is SHFileOperationW of the shell. What lies in the bin is told by files `$Ixxxxxx` beside `$Rxxxxxx`, the thing
itself; their form is written down in libyal's "Windows Recycle Bin file formats".
"""

from __future__ import annotations

import ctypes
import struct
import sys
from collections.abc import Callable, Iterator
from ctypes import wintypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_DELETE = 3
# Silent, no question, to the bin, no error box; but a question when Windows would delete for good, as with what is too
# large for the bin.
_FLAGS = 0x0004 | 0x0010 | 0x0040 | 0x0400 | 0x4000
_REMOVABLE, _FIXED = 2, 3  # of GetDriveTypeW; network drives have no bin, and the shell deletes there for good
_EPOCH_S = 11_644_473_600  # seconds from 1601, where Windows' time begins, to 1970
_SLACK_S = 5.0  # FAT disks and the bin keep time less finely than we do


class Operation(ctypes.Structure):
    """SHFILEOPSTRUCTW of shellapi.h, which packs it on 32-bit systems only."""

    if ctypes.sizeof(ctypes.c_void_p) == 4:
        _pack_ = 1
    _fields_ = (
        ("hwnd", wintypes.HWND), ("wFunc", wintypes.UINT), ("pFrom", ctypes.c_void_p), ("pTo", ctypes.c_void_p),
        ("fFlags", wintypes.WORD), ("fAnyOperationsAborted", wintypes.BOOL), ("hNameMappings", ctypes.c_void_p),
        ("lpszProgressTitle", ctypes.c_void_p),
    )  # fmt: skip


@dataclass(frozen=True)
class Shell:
    """The two calls of Windows that deleting needs. `delete` takes a pointer to an Operation and gives 0 when done."""

    delete: Callable[[Any], int]
    drive_kind: Callable[[str], int]


def shell() -> Shell | None:
    """Windows' own; None on other systems."""
    if sys.platform != "win32":
        return None
    return Shell(ctypes.windll.shell32.SHFileOperationW, ctypes.windll.kernel32.GetDriveTypeW)


def recycle(path: Path, windows: Shell) -> bool:
    """Put an absolute path into the bin; False when its disk has none or the shell refused, and it is where it was."""
    if windows.drive_kind(path.anchor) not in (_REMOVABLE, _FIXED):
        return False
    names = ctypes.create_unicode_buffer(str(path), len(str(path)) + 2)  # a list of names, ended by an empty one
    operation = Operation(wFunc=_DELETE, pFrom=ctypes.addressof(names), fFlags=_FLAGS)
    code = windows.delete(ctypes.byref(operation))
    return code == 0 and not operation.fAnyOperationsAborted and not path.exists()


def find(original: Path, at: float, bin_folder: Path | None = None) -> tuple[Path, Path] | None:
    """What was deleted from `original` at about `at` (Unix seconds) or later, and the file that tells of it."""
    found: list[tuple[float, Path]] = []
    for info in _infos(bin_folder or Path(original.anchor) / "$Recycle.Bin"):
        told = _told(info)
        if told and told[0].casefold() == str(original).casefold() and told[1] >= at - _SLACK_S:
            found.append((told[1], info))
    for _, info in sorted(found, reverse=True):
        kept = info.with_name("$R" + info.name[2:])
        if kept.exists():
            return kept, info
    return None


def _infos(bin_folder: Path) -> Iterator[Path]:
    """Every user has a folder of their own in the bin; only one's own can be read."""
    try:
        users = sorted(bin_folder.iterdir())
    except OSError:
        return
    for user in users:
        try:
            yield from sorted(path for path in user.iterdir() if path.name.startswith("$I"))
        except OSError:
            continue


def _told(info: Path) -> tuple[str, float] | None:
    """(path, Unix seconds) from a file $I: version, size and time in 8 bytes each, then the name in UTF-16."""
    try:
        data = info.read_bytes()
        version, _, time = struct.unpack_from("<qqq", data)
        name = data[24:544] if version == 1 else data[28:]  # since Windows 10 its length comes first
        return name.decode("utf-16-le").partition("\0")[0], time / 1e7 - _EPOCH_S
    except (OSError, struct.error, UnicodeDecodeError):
        return None
