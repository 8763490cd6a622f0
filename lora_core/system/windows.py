r"""What only Windows has: it falls asleep while a training runs, it promises programs no more memory than it can swap out,
it opens no path of 260 characters, and a file in a folder may be only in the cloud.

Elsewhere every question has its harmless answer, and nothing of Windows is loaded. The calls are those of Microsoft's
own pages: SetThreadExecutionState, GlobalMemoryStatusEx, "Maximum Path Length Limitation", "File Attribute Constants".
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_core.messages import Message

LONGEST_PATH = 259  # MAX_PATH without its ending zero
LONGEST_TEMPORARY = 45  # characters of a name in files.py
_CONTINUOUS, _SYSTEM_REQUIRED = 0x80000000, 0x00000001
# Offline, recalled when it is opened, recalled when it is read.
_IN_CLOUD = 0x1000 | 0x40000 | 0x400000
_FILE_SYSTEM = r"SYSTEM\CurrentControlSet\Control\FileSystem"
_MEMORY = r"SYSTEM\CurrentControlSet\Control\Session Manager\Memory Management"
_NO_MEMORY = re.compile(r"(?:WinError|os error) 1455\b")  # ERROR_COMMITMENT_LIMIT, as Python and as Rust say it
ENLARGE = Message("system.page_file_enlarge")
ALLOW_LONG = Message("system.path_allow_long")
KEEP_HERE = Message("system.keep_here")


class MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of sysinfoapi.h."""

    _fields_ = (
        ("dwLength", ctypes.c_uint32), ("dwMemoryLoad", ctypes.c_uint32), ("ullTotalPhys", ctypes.c_uint64),
        ("ullAvailPhys", ctypes.c_uint64), ("ullTotalPageFile", ctypes.c_uint64), ("ullAvailPageFile", ctypes.c_uint64),
        ("ullTotalVirtual", ctypes.c_uint64), ("ullAvailVirtual", ctypes.c_uint64),
        ("ullAvailExtendedVirtual", ctypes.c_uint64),
    )  # fmt: skip


@dataclass(frozen=True)
class Api:
    """The calls of Windows that are made here.

    registry: a value under HKEY_LOCAL_MACHINE, None where there is none. attributes: of a file, 0 where it is not there.
    """

    set_execution_state: Callable[[int], int]
    memory_status: Callable[[Any], int]
    registry: Callable[[str, str], object]
    attributes: Callable[[str], int]


@functools.cache
def api() -> Api | None:
    """Windows' own calls; None on other systems."""
    if sys.platform != "win32":
        return None
    kernel32 = ctypes.windll.kernel32
    set_state = kernel32.SetThreadExecutionState
    set_state.argtypes, set_state.restype = [ctypes.c_uint32], ctypes.c_uint32
    return Api(set_state, kernel32.GlobalMemoryStatusEx, _registry, _attributes)


# --- sleep ------------------------------------------------------------------------------------------------------------


@contextmanager
def awake() -> Iterator[None]:
    """Windows does not fall asleep within the block, though its screen may. It counts per thread, and ends with it."""
    system = api()
    if system:
        system.set_execution_state(_CONTINUOUS | _SYSTEM_REQUIRED)
    try:
        yield
    finally:
        if system:
            system.set_execution_state(_CONTINUOUS)


# --- memory and the page file -----------------------------------------------------------------------------------------


def page_file_notice(needed: int) -> Message | None:
    """What to say before `needed` bytes are asked for that Windows may not promise; None where it can, and elsewhere.

    Windows promises memory only as far as RAM and page file reach, also memory of a graphics card, which its driver
    keeps a place for.
    """
    left = promisable_bytes()
    if left is None or left >= needed:
        return None
    return Message("system.page_file_before", left=left / 2**30, needed=needed / 2**30, advice=ENLARGE)


def page_file_failure(error: BaseException) -> Message | None:
    """What to say of an error that comes of a page file that is too small; None for any other."""
    chain: BaseException | None = error
    while chain is not None:
        if getattr(chain, "winerror", None) == 1455 or _NO_MEMORY.search(str(chain)):
            return Message("system.page_file_after", advice=ENLARGE)
        chain = chain.__cause__ or chain.__context__
    return None


def promisable_bytes() -> int | None:
    """What programs may still ask for, with what a page file that Windows manages can grow by; None elsewhere."""
    system = api()
    if system is None:
        return None
    status = MemoryStatus(dwLength=ctypes.sizeof(MemoryStatus))
    if not system.memory_status(ctypes.byref(status)):
        return sys.maxsize
    left, most = int(status.ullAvailPageFile), 4 * int(status.ullTotalPhys)  # it grows to three times the RAM
    files = system.registry(_MEMORY, "PagingFiles")
    managed = [re.fullmatch(r"(.):.*?(?: 0 0)?", str(line)) for line in files] if isinstance(files, list) else []
    if any(found and (found[1] == "?" or found[0].endswith(" 0 0")) for found in managed):
        drive = os.environ.get("SYSTEMDRIVE", "C:") + os.sep
        try:
            growth = min(shutil.disk_usage(drive).free, most - int(status.ullTotalPageFile))
        except OSError:
            growth = 0
        left += max(0, growth)
    return left


# --- paths ------------------------------------------------------------------------------------------------------------


def reachable(path: Path, room: int = 0) -> Path:
    r"""The path as Windows opens it whatever its length, behind \\?\; the same one where that is not needed.

    room: characters of the longest name below it.
    """
    absolute = os.path.abspath(path) if api() else ""
    return Path(prefixed(absolute)) if _is_too_long(absolute, room) else path


def path_problem(path: Path, room: int = 0) -> Message | None:
    """What to say of a path that is too long for Windows, with names of `room` characters below it; else None."""
    absolute = os.path.abspath(path) if api() else ""
    if not _is_too_long(absolute, room):
        return None
    return Message("system.path_too_long", path=path, count=len(absolute) + room, most=LONGEST_PATH, advice=ALLOW_LONG)


def prefixed(absolute: str) -> str:
    r"""An absolute path behind \\?\, or \\?\UNC\ for a network share: then Windows does not count its characters."""
    if absolute.startswith("\\\\?\\"):
        return absolute
    return "\\\\?\\UNC\\" + absolute[2:] if absolute.startswith("\\\\") else "\\\\?\\" + absolute


def _is_too_long(absolute: str, room: int = 0) -> bool:
    system = api()
    if not system or len(absolute) + room <= LONGEST_PATH or absolute.startswith("\\\\?\\"):
        return False
    return system.registry(_FILE_SYSTEM, "LongPathsEnabled") != 1


# --- single files -----------------------------------------------------------------------------------------------------


def is_in_cloud(path: Path) -> bool:
    """Whether a file's content is elsewhere (OneDrive and its kin), so that reading it waits for a download."""
    system = api()
    return bool(system and system.attributes(str(path)) & _IN_CLOUD)


def unprotect(path: Path) -> bool:
    """Take the mark "read-only" off a file, which under Windows keeps it from being replaced; whether it had one."""
    if not api() or not path.is_file() or path.stat().st_mode & stat.S_IWRITE:
        return False
    path.chmod(path.stat().st_mode | stat.S_IWRITE)
    return True


# --- Windows' own -----------------------------------------------------------------------------------------------------


def _registry(key: str, name: str) -> object:
    if sys.platform != "win32":
        return None
    import winreg

    try:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, key) as opened:
            return winreg.QueryValueEx(opened, name)[0]
    except OSError:
        return None


def _attributes(path: str) -> int:
    try:
        return int(getattr(os.stat(path), "st_file_attributes", 0))
    except OSError:
        return 0
