"""Weights from a file into a model, one tensor at a time and straight to its number format and device.

No table of all weights is ever held: the most memory a component needs on the way is itself and its largest tensor.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
from torch import Tensor, nn

from lora_core import headers
from lora_core.errors import UserError
from lora_core.headers import Header
from lora_core.ldm_names import Place

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


class Weights(Protocol):
    """An open file of tensors."""

    header: Header

    def read(self, name: str) -> Tensor: ...

    def close(self) -> None: ...


def open_weights(path: Path) -> Weights:
    """Open a .safetensors, .ckpt, .pt, .pth or .bin file.

    Raises:
        UserError: damaged, truncated, or holding code.
    """
    header = headers.read(path)
    return _Safetensors(path, header) if header.starts else _Pickled(path, header)


class _Safetensors:
    """Read with plain reads, not mapped: a mapped file counts twice while it is copied, and on Windows stays locked."""

    def __init__(self, path: Path, header: Header):
        self.header = header
        self._file: BinaryIO = path.open("rb", buffering=0)

    def read(self, name: str) -> Tensor:
        about = self.header.tensors[name]
        if about.dtype not in DTYPES:
            raise ValueError(f"{name} has the number format {about.dtype}, which is not known here")
        whole = torch.empty(about.bytes, dtype=torch.uint8)
        self._file.seek(self.header.starts[name])
        into, done = memoryview(whole.numpy().data), 0
        while done < about.bytes:
            if not (count := self._file.readinto(into[done:])):  # type: ignore[attr-defined]  # raw files have it
                raise ValueError(f"the file ends within {name}")
            done += count
        return whole.view(DTYPES[about.dtype]).reshape(about.shape)

    def close(self) -> None:
        self._file.close()


class _Inert:
    """Stands for the classes that checkpoints only mention."""


class _Pickled:
    """By torch, which with weights_only builds tensors and nothing else; files of torch 1.6 and later are mapped."""

    def __init__(self, path: Path, header: Header):
        self.header = header
        with path.open("rb") as file:
            is_zip = file.read(2) == b"PK"
        known: list[Any] = [(_Inert, name) for name in headers.INERT]
        try:
            with torch.serialization.safe_globals(known):
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
        except pickle.UnpicklingError as cause:
            raise UserError(f"{path} holds more than weights; it is not opened. Take the model as .safetensors.") from cause
        self._tensors: dict[str, Tensor] = content.get("state_dict", content)

    def read(self, name: str) -> Tensor:
        return self._tensors[name]

    def close(self) -> None:
        self._tensors = {}


def build(make: Callable[[], nn.Module]) -> nn.Module:
    """A module with shapes and no memory; `fill` gives it both weights and a place."""
    with torch.device("meta"):
        return make()


def fill(
    module: nn.Module, weights: Weights, places: Callable[[str], Sequence[Place]], dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> None:  # fmt: skip
    """Give every weight of `module` (built without memory) its values from where `places` says they may stand.

    Raises:
        ValueError: a weight is missing or of another shape; the first is named, the others are counted.
    """
    wanted = {name: parameter.shape for name, parameter in module.state_dict().items()}
    found = {name: next((p for p in places(name) if p.name in weights.header.tensors), None) for name in wanted}
    if missing := [name for name, place in found.items() if place is None]:
        raise ValueError(f"{_first(missing)} not in the file")
    there = [(name, place) for name, place in found.items() if place is not None]
    there.sort(key=lambda pair: weights.header.starts.get(pair[1].name, 0))  # disks like to go forward
    state: dict[str, Tensor] = {}
    held, tensor = "", torch.empty(0)
    for name, place in there:
        if place.name != held:
            held, tensor = place.name, weights.read(place.name)
        state[name] = _fitted(tensor, place, wanted[name], name).to(device, dtype, copy=place.third is not None)
    module.load_state_dict(state, strict=True, assign=True)
    _fill_positions(module, device)


def _fitted(tensor: Tensor, place: Place, shape: torch.Size, name: str) -> Tensor:
    if place.third is not None:
        rows = tensor.shape[0] // 3
        tensor = tensor[place.third * rows : (place.third + 1) * rows]
    if place.transposed:
        tensor = tensor.T.contiguous()
    # 1x1 convolutions and linear layers are the same numbers.
    if _plain(tensor.shape) != _plain(shape):
        raise ValueError(f"{name} is {list(tensor.shape)} in the file and not {list(shape)}")
    return tensor.reshape(shape)


def _plain(shape: torch.Size) -> tuple[int, ...]:
    sides = tuple(shape)
    while len(sides) > 2 and sides[-1] == 1:
        sides = sides[:-1]
    return sides


def _fill_positions(module: nn.Module, device: torch.device | str) -> None:
    """CLIP counts its positions in a buffer that no file holds."""
    for part in module.modules():
        for name, buffer in part.named_buffers(recurse=False):
            if buffer.is_meta:
                assert name == "position_ids", f"{name} is neither a weight nor known"
                part.register_buffer(name, torch.arange(buffer.shape[-1], device=device)[None], persistent=False)


def _first(names: Iterable[str]) -> str:
    first, *rest = names
    return f"{first} is" if not rest else f"{first} and {len(rest)} more weights are"
