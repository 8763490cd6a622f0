"""How quick the disks of caches and runs are, and how much is free there."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from lora_core.check.bench import Bench
from lora_core.messages import Message
from lora_core.system import files, paths

BLOCK = 4 * 2**20
SLOW = 30e6  # bytes a second: a checkpoint takes seconds, and a full disk or a stick is likely
ROOM = 8 * 10**9  # bytes: a base model, its caches, and the checkpoints of a run
_NO_CACHE = 48  # F_NOCACHE of macOS' fcntl


@dataclass(frozen=True)
class Speed:
    """Bytes a second. read: None where the system would answer from memory."""

    written: float
    read: float | None


def measure(bench: Bench) -> None:
    """Both folders; one speed where they are on the same disk."""
    cache, run = _there(paths.cache_folder()), _there(bench.run_folder)
    is_same = _disk_of(cache) == _disk_of(run)
    _one(bench, "check.disk_both" if is_same else "check.disk_cache", cache, is_cache=True)
    if not is_same:
        bench.go_on()
        _one(bench, "check.disk_run", run, is_cache=False)


def speed(folder: Path, size: int) -> Speed:
    """Write a file until it is on the disk, and read it from there; it is gone afterwards.

    Raises:
        OSError: the folder takes no file, or the disk is full.
    """
    block, path = secrets.token_bytes(BLOCK), folder / f".{secrets.token_hex(6)}{files.TEMPORARY_SUFFIX}"
    count = max(1, size // BLOCK)
    try:
        began = time.perf_counter()
        with open(path, "wb", buffering=0) as file:
            for _ in range(count):
                file.write(block)
            os.fsync(file.fileno())
        written = time.perf_counter() - began
        return Speed(count * BLOCK / written, _read(path, count * BLOCK))
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def _one(bench: Bench, key: str, folder: Path, is_cache: bool) -> None:
    free = files.free_bytes(folder)
    if free < 2 * bench.sizes.disk_bytes:
        bench.failed(Message("check.disk_full", free=free / 1e9), Message("check.free_some"))
        return
    found = speed(folder, bench.sizes.disk_bytes)
    if is_cache:
        bench.decide(disk_bytes_per_second=found.written)
    read = Message("check.disk_read", read=found.read / 1e6) if found.read else ""
    told = Message(key, free=free / 1e9, written=found.written / 1e6, read=read)
    if free < ROOM:
        bench.failed(told, Message("check.free_some"))
    elif found.written < SLOW:
        bench.slower(told, Message("check.slow_disk"))
    else:
        bench.good(told)


def _read(path: Path, size: int) -> float | None:
    """Bytes a second from the disk itself; None where the system cannot be asked to forget what it just wrote."""
    with open(path, "rb", buffering=0) as file:
        if not _forgets(file.fileno()):
            return None
        began = time.perf_counter()
        while file.read(BLOCK):
            pass
        return size / (time.perf_counter() - began)


def _forgets(descriptor: int) -> bool:
    if sys.platform == "darwin":
        import fcntl

        return fcntl.fcntl(descriptor, _NO_CACHE, 1) != -1
    if sys.platform == "linux":
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return True
    return False


def _disk_of(folder: Path) -> int:
    return folder.stat().st_dev


def _there(folder: Path) -> Path:
    """The folder, or what there is above it."""
    found = Path(os.path.abspath(folder))
    while not found.is_dir() and found != found.parent:
        found = found.parent
    return found
