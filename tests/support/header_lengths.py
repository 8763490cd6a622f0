"""A .safetensors with a header of any length, in memory: its first bytes are that length, and may look like anything's."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

LENGTHS = range(70_001)  # more than two bytes count
SETTINGS = "schema = 1\nmax_train_steps = 7\n"
_TABLE = {
    "a": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]},
    "__metadata__": {"sshs_model_hash": "0af1", "treino.config": SETTINGS, "padding": ""},
}
_HEADER = json.dumps(_TABLE, separators=(",", ":")).encode()
_END = b'"}}'
SHORTEST = len(_HEADER)


class InMemory(type(Path())):  # type: ignore[misc]  # of the system
    """A path whose file is these bytes and nowhere on the disk."""

    data: bytes

    def read_bytes(self) -> bytes:
        return self.data

    def open(self, *arguments: Any, **options: Any) -> IO[bytes]:
        return io.BytesIO(self.data)

    def stat(self, **options: Any) -> os.stat_result:
        return os.stat_result((*(0,) * 7, *(int(time.time()),) * 3))


def in_memory(data: bytes, name: str = "x.safetensors") -> InMemory:
    path = InMemory(name)
    path.data = data
    return path


def headers() -> Iterator[tuple[int, InMemory]]:
    """For every length of LENGTHS a file of one tensor; headers under SHORTEST end too early to be read."""
    padded = _HEADER.removesuffix(_END) + b" " * LENGTHS[-1]
    for length in LENGTHS:
        header = padded[: length - len(_END)] + _END if length >= SHORTEST else padded[:length]
        yield length, in_memory(length.to_bytes(8, "little") + header + b"\0\x3c")
