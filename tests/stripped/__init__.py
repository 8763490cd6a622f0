"""Real models without their weights: the names, formats and shapes of the tensors of many kinds of files.

`python -m tests.stripped.make` makes them anew, from the libraries' own settings.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path

from lora_core.system.tensor_headers import Header, Tensor

FOLDER = Path(__file__).parent
NAMES = sorted(path.name.removesuffix(".json.gz") for path in FOLDER.glob("*.json.gz"))


def header(name: str) -> Header:
    """The header of a stripped model."""
    table = json.loads(gzip.decompress((FOLDER / f"{name}.json.gz").read_bytes()))
    metadata = table.pop("__metadata__", {})
    return Header({key: Tensor(dtype, tuple(shape)) for key, (dtype, shape) in table.items()}, metadata)


def safetensors_header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[bytes, int]:
    """The beginning of a .safetensors file with these tensors, and the size of the whole file in bytes."""
    table: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for key, tensor in tensors.items():
        table[key] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [end, end + tensor.bytes]}
        end += tensor.bytes
    text = json.dumps(table).encode()
    return len(text).to_bytes(8, "little") + text, 8 + len(text) + end


def hollow_file(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """A .safetensors file of full size whose weights are a hole in it: gigabytes that take no room on most disks."""
    start, size = safetensors_header(tensors, metadata or {})
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size)
    return path
