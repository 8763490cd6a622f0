"""Tensors on disk under the hash of all they depend on: shared by all runs, never wrong, and no more than a limit.

A file is whole or absent, so a killed process, several readers and several writers do no harm: who finds no file, or
one that is gone while it reads, makes the tensors anew. What was not used for longest goes first when there is too much.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from lora_core.events import Emit, Warned
from lora_core.messages import Message
from lora_core.system.files import TEMPORARY_SUFFIX, WriteError, write_bytes_whole
from lora_core.system.paths import cache_folder

LIMIT_GB = 20.0  # a picture of 512 pixels takes 0.13 MB, one of 1024 pixels 0.5 MB
LIMIT_VARIABLE = "TREINO_CACHE_GB"
AFTER = 0.8  # of the limit remains when the limit was passed, so that it is not passed again at once
USED_AGAIN_S = 86_400.0  # a use is noted on the file once a day


def place_of(description: str) -> Path:
    """The file for what is described."""
    name = hashlib.sha256(description.encode()).hexdigest()
    return cache_folder() / name[:2] / f"{name}.safetensors"


def read(path: Path) -> dict[str, Tensor] | None:
    """The tensors in a file of the store; None when it is missing or damaged."""
    try:
        tensors = load_tensors(path.read_bytes())
        if time.time() - path.stat().st_mtime > USED_AGAIN_S:
            os.utime(path)
    except (OSError, SafetensorError):
        return None
    return tensors


def write(path: Path, tensors: Mapping[str, Tensor]) -> Message | None:
    """Put tensors into the store; returns what to tell when the disk is full or read-only, which costs time and no more."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_whole(path, save_tensors({name: tensor.contiguous() for name, tensor in tensors.items()}))
    except (OSError, WriteError) as cause:
        return Message("training.no_cache", cause=cause)
    return None


def stored(description: str, make: Callable[[], dict[str, Tensor]], emit: Emit) -> dict[str, Tensor]:
    """Tensors from the store, made and written when they are not there."""
    path = place_of(description)
    if (found := read(path)) is not None:
        return found
    made = make()
    if notice := write(path, made):
        emit(Warned(notice))
    return made


def remove_abandoned() -> None:
    """Delete what killed processes left half-written in the store; those that live may be writing right now."""
    for path in cache_folder().glob(f"??/.*{TEMPORARY_SUFFIX}"):
        pid = path.name[1:].partition("-")[0]
        if not pid.isdigit() or not psutil.pid_exists(int(pid)):
            with contextlib.suppress(OSError):
                path.unlink()


def make_room(emit: Emit) -> int:
    """Delete what was not used for longest when the store holds more than its limit; returns how many bytes went."""
    limit = _limit(emit)
    files = sorted(_files())
    size = sum(count for _, count, _ in files)
    if size <= limit:
        return 0
    gone = 0
    for _, count, path in files:
        if size - gone <= limit * AFTER:
            break
        with contextlib.suppress(OSError):  # another process was quicker, or Windows has it open
            os.unlink(path)
            gone += count
    return gone


def _files() -> Iterator[tuple[float, int, str]]:
    """Last use, size and path of every file in the store."""
    for folder in cache_folder().glob("??"):
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.name.endswith(".safetensors"):
                        about = entry.stat()
                        yield about.st_mtime, about.st_size, entry.path


def _limit(emit: Emit) -> float:
    given = os.environ.get(LIMIT_VARIABLE, "")
    try:
        return float(given or LIMIT_GB) * 1e9
    except ValueError:
        emit(Warned(Message("training.cache_limit", name=LIMIT_VARIABLE, given=given, limit=LIMIT_GB)))
        return LIMIT_GB * 1e9
