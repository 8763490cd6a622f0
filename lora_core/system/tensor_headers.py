"""What a file of tensors holds, from its first bytes alone: names, shapes and number formats, never a weight.

.safetensors: 8 bytes of length, then JSON (https://huggingface.co/docs/safetensors, "Format"). .ckpt and .pt: the
pickle inside names the tensors; it is read by an unpickler that knows nothing but tensors and plain data, so a file
with code in it is refused, not run. Neither needs torch.
"""

from __future__ import annotations

import collections
import io
import json
import math
import os
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from lora_core.errors import UserError
from lora_core.messages import Message
from lora_core.system import windows
from lora_core.system.units import exact_size

# Bytes of a number by its name in a .safetensors header.
SIZES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
SAFETENSORS = (".safetensors", ".sft")
PICKLES = (".ckpt", ".pt", ".pth", ".bin")
LONGEST_HEADER = 100_000_000  # bytes; the format's own limit
AGAIN = Message("system.get_again")


class Tensor(NamedTuple):
    """A tensor's number format, as .safetensors names it, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * SIZES.get(self.dtype, 1)


@dataclass(frozen=True)
class Header:
    """The tensors of a file by name; of a .safetensors also its metadata and where in the file each tensor begins."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    starts: Mapping[str, int] = field(default_factory=dict)


def read(path: Path) -> Header:
    """The header of a .safetensors, .ckpt, .pt, .pth or .bin file.

    Raises:
        UserError: no such file, truncated, with code in it, or another kind of file; in a sentence.
    """
    if windows.is_in_cloud(path):
        raise UserError("system.in_cloud", path=path, advice=windows.KEEP_HERE)
    try:
        with path.open("rb") as file:
            start = file.read(512)
        _refuse_others(path, start)
        if path.suffix.lower() in SAFETENSORS:
            with path.open("rb") as file:
                return safetensors(file, path)
        return _pickled(path, is_zip=start.startswith(b"PK"))
    except FileNotFoundError:
        raise UserError("system.no_file", path=path) from None
    except OSError as cause:
        raise UserError("system.unreadable", path=path, why=cause.strerror or str(cause)) from cause


def metadata_of(path: Path) -> Mapping[str, str]:
    """The metadata in the header of a .safetensors.

    Raises:
        OSError: the file cannot be opened.
        UserError: it is cut short, or no .safetensors.
    """
    with path.open("rb") as file:
        return safetensors(file, path).metadata


def _refuse_others(path: Path, start: bytes) -> None:
    """Files that carry a model's name and are something else."""
    if not start:
        raise UserError("system.empty_file", path=path, again=AGAIN)
    if start.startswith(b"version https://git-lfs"):
        raise UserError("system.git_lfs", path=path)
    if start.lstrip()[:15].lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError("system.web_page", path=path)
    if start.startswith(b"GGUF"):
        raise UserError("system.gguf", path=path)
    if path.suffix.lower() not in (*SAFETENSORS, *PICKLES):
        raise UserError("system.no_model_file", path=path)


def safetensors(file: BinaryIO, path: Path) -> Header:
    """The header of an open .safetensors; `path` is what errors call it. Raises UserError like `read`."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    begins = file.read(1) if size > 8 else b"{"
    if size < 8 or not 2 <= length <= LONGEST_HEADER or begins != b"{":
        raise UserError("system.no_safetensors", path=path)
    if length + 8 > size:
        raise UserError("system.cut_in_header", path=path, again=AGAIN)
    text = begins + file.read(length - 1)
    try:
        table = json.loads(text)
        metadata = {str(key): str(value) for key, value in table.pop("__metadata__", {}).items()}
        tensors = {name: Tensor(str(e["dtype"]), tuple(map(int, e["shape"]))) for name, e in table.items()}
        starts = {name: 8 + length + int(entry["data_offsets"][0]) for name, entry in table.items()}
        end = max((starts[name] + tensor.bytes for name, tensor in tensors.items()), default=8 + length)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as cause:
        raise UserError("system.damaged_header", path=path, again=AGAIN) from cause
    if size < end:
        raise UserError(
            "system.truncated", path=path, here=exact_size(size), whole=exact_size(end), size=size, end=end, again=AGAIN
        )
    return Header(tensors, metadata, starts)


# --- pickles --------------------------------------------------------------------------------------------------------


class HasCode(pickle.UnpicklingError):
    """The pickle names something that is neither a tensor nor plain data."""


class Storage(NamedTuple):
    """What torch's pickles say of a tensor's data."""

    dtype: str


_STORAGES = {
    "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "DoubleStorage": "F64",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL", "UntypedStorage": "U8",
}  # fmt: skip
# Names that Lightning's checkpoints mention beside the weights: counted as words, never looked up.
INERT = ("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",)


def _tensor(storage: Any, offset: Any, shape: Any, *rest: Any) -> Tensor:
    return Tensor(storage.dtype, tuple(shape))


def _tensor_v3(storage: Any, offset: Any, shape: Any, stride: Any, grad: Any, hooks: Any, dtype: str, *rest: Any) -> Tensor:
    return Tensor(dtype, tuple(shape))


def _parameter(data: Any, *rest: Any) -> Any:
    return data


def _nothing(*arguments: Any) -> None:
    """Stands for values that the header does not need."""


_DTYPES = {
    "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64", "int64": "I64", "int32": "I32",
    "uint8": "U8", "int8": "I8", "bool": "BOOL", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
}  # fmt: skip
_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): collections.defaultdict,
    ("builtins", "set"): set, ("__builtin__", "set"): set,
    ("builtins", "dict"): dict, ("__builtin__", "dict"): dict,
    ("builtins", "int"): int, ("__builtin__", "int"): int,
    ("builtins", "float"): float, ("__builtin__", "float"): float,
    ("builtins", "bool"): bool, ("__builtin__", "long"): int,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor, ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_v3, ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "Size"): tuple, ("torch", "device"): _nothing, ("_codecs", "encode"): _nothing,
    ("numpy.core.multiarray", "scalar"): _nothing, ("numpy._core.multiarray", "scalar"): _nothing,
    ("numpy", "dtype"): _nothing,
    **{("torch", name): Storage(dtype) for name, dtype in _STORAGES.items()},
    **{("torch.storage", name): Storage(dtype) for name, dtype in _STORAGES.items()},
    **{("torch", name): dtype for name, dtype in _DTYPES.items()},
}  # fmt: skip


class _Names(pickle.Unpickler):
    """Reads the structure of a torch pickle: tensors become their shapes, and nothing is called that could act."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" in INERT:
            return name
        if (module, name) not in _KNOWN:
            raise HasCode(f"{module}.{name}")
        return _KNOWN[module, name]

    def persistent_load(self, identity: Any) -> Any:
        return identity[1]  # ("storage", storage type, key, location, number of elements)


def _pickled(path: Path, is_zip: bool) -> Header:
    if is_zip:
        return _header(path, _unpickled(path, _data_of_zip(path), 1)[-1])
    with path.open("rb") as file:
        start = file.read(1)
        if start != b"\x80":
            raise UserError("system.no_checkpoint", path=path)
        file.seek(0)
        # Before torch 1.6 (2020): magic number, protocol, system, then the tensors' structure.
        return _header(path, _unpickled(path, file, 4)[-1])


def _data_of_zip(path: Path) -> io.BytesIO:
    try:
        with zipfile.ZipFile(path) as archive:
            inner = [name for name in archive.namelist() if name.endswith("/data.pkl") or name == "data.pkl"]
            if not inner:
                raise UserError("system.archive", path=path)
            return io.BytesIO(archive.read(inner[0]))
    except (UserError, OSError, MemoryError):
        raise
    except Exception as cause:  # the list of contents stands at the end, so it goes missing first; damaged, it lies
        raise UserError("system.no_contents", path=path, again=AGAIN) from cause


def _unpickled(path: Path, file: Any, count: int) -> list[Any]:
    try:
        return [_Names(file).load() for _ in range(count)]
    except HasCode as cause:
        raise UserError("system.holds_code", path=path, code=str(cause)) from cause
    except Exception as cause:  # a damaged pickle raises whatever it likes
        raise UserError("system.damaged_list", path=path, again=AGAIN) from cause


def _header(path: Path, content: Any) -> Header:
    """The tensors of a checkpoint, which lie in it directly or under "state_dict"."""
    if isinstance(content, Mapping):
        inner = content.get("state_dict", content)
        if isinstance(inner, Mapping):
            return Header({str(name): value for name, value in inner.items() if isinstance(value, Tensor)})
    raise UserError("system.no_weights", path=path)
