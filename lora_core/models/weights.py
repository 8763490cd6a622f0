"""Weights from a file into a model, one tensor at a time and straight to its number format and device.

No table of all weights is ever held: the most memory a component needs on the way is itself and its largest tensor.
Components start on the meta device (shapes without memory), are loaded to a device when needed, and offloaded after.
"""

from __future__ import annotations

import contextlib
import json
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
from torch import Tensor, nn

from lora_core.errors import UserError, first_line
from lora_core.messages import Message
from lora_core.models import int8
from lora_core.models.checkpoint_keys import Place
from lora_core.models.device import in_turn
from lora_core.system import tensor_headers
from lora_core.system.tensor_headers import Header

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


class MisfitError(ValueError):
    """A file does not hold what a model needs. `message` goes into the sentence of whoever wanted it."""

    def __init__(self, key: str, **params: object) -> None:
        self.message = Message(key, **params)
        super().__init__(str(self.message))


class Weights(Protocol):
    """An open file of tensors."""

    header: Header

    def read(self, name: str) -> Tensor: ...

    def close(self) -> None: ...


def open_weights(path: Path, header: Header | None = None) -> Weights:
    """Open a .safetensors, .ckpt, .pt, .pth or .bin file; `header` if it has been read before.

    Raises:
        UserError: damaged, truncated, or holding code.
    """
    header = header or tensor_headers.read(path)
    return _Safetensors(path, header) if header.starts else _Pickled(path, header)


class _Safetensors:
    """Read with plain reads, not mapped: a mapped file counts twice while it is copied, and on Windows stays locked."""

    def __init__(self, path: Path, header: Header):
        self.header = header
        self._file: BinaryIO = path.open("rb", buffering=0)

    def read(self, name: str) -> Tensor:
        about = self.header.tensors[name]
        if about.dtype not in DTYPES:
            raise MisfitError("models.weight_format", name=name, dtype=about.dtype)
        whole = torch.empty(about.bytes, dtype=torch.uint8)
        self._file.seek(self.header.starts[name])
        into, done = memoryview(whole.numpy().data), 0
        while done < about.bytes:
            if not (count := self._file.readinto(into[done:])):  # type: ignore[attr-defined]  # raw files have it
                raise MisfitError("models.weight_cut", name=name)
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
        self._path = path
        self._tensors: dict[str, Tensor] = {}

    def read(self, name: str) -> Tensor:
        self._tensors = self._tensors or self._load()
        return self._tensors[name]

    def close(self) -> None:
        self._tensors = {}

    def _load(self) -> dict[str, Tensor]:
        with self._path.open("rb") as file:
            is_zip = file.read(2) == b"PK"
        known: list[Any] = [(_Inert, name) for name in tensor_headers.INERT]
        try:
            with torch.serialization.safe_globals(known):
                content = torch.load(self._path, map_location="cpu", weights_only=True, mmap=is_zip)
        except pickle.UnpicklingError as cause:
            raise UserError("models.more_than_weights", path=self._path) from cause
        except (OSError, MemoryError):
            raise
        except Exception as cause:  # torch.load raises whatever the damaged bytes lead it to
            raise UserError("models.weights_damaged", path=self._path) from cause
        tensors: dict[str, Tensor] = content.get("state_dict", content)
        return tensors


class _Shards:
    """Several files of one component."""

    def __init__(self, files: Sequence[Weights]):
        self._files = files
        self._of = {name: file for file in files for name in file.header.tensors}
        self.header = Header({name: file.header.tensors[name] for name, file in self._of.items()})

    def read(self, name: str) -> Tensor:
        return self._of[name].read(name)

    def close(self) -> None:
        for file in self._files:
            file.close()


def open_folder(folder: Path, stem: str, variant: str | None) -> Weights:
    """The .safetensors weights of a component of a diffusers folder, in one file or in several.

    Raises:
        UserError: there are none, or they are damaged.
    """
    dotted = f".{variant}" if variant else ""
    index = folder / f"{stem}.safetensors.index{dotted}.json"
    if not index.is_file():
        return open_weights(folder / f"{stem}{dotted}.safetensors")
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if any(Path(name).name != name or not name.endswith(".safetensors") for name in names):
            raise ValueError("names that lead out of the folder")
    except (ValueError, KeyError, TypeError, AttributeError) as cause:
        raise UserError("models.index_damaged", path=index) from cause
    return _Shards([open_weights(folder / name) for name in names])


def reason(cause: Exception) -> Message | str:
    """What a library or a file's content led to, in one line."""
    told = getattr(cause, "message", None)
    return told if isinstance(told, Message) else first_line(cause)


@dataclass(frozen=True)
class Source:
    """Where a module's weights come from, each time they are needed."""

    where: str  # for messages
    open: Callable[[], Weights]
    places: Callable[[str], Sequence[Place]]
    dtype: torch.dtype


def on_meta(make: Callable[[], nn.Module], source: Source) -> Any:
    """A frozen module with shapes and no memory, which `load_to` fills. Names and shapes are compared with its files now.

    Raises:
        UserError: the files are damaged.
        MisfitError: a weight is missing or of another shape; the first is named, the others are counted.
    """
    with torch.device("meta"):
        module: Any = make().requires_grad_(False).eval()
    weights = source.open()
    weights.close()
    wanted = {name: tensor.shape for name, tensor in module.state_dict().items()}
    for name, (place, tensor) in _matched(wanted, weights.header, source.places).items():
        rows, *columns = tensor.shape or (1,)
        shape = (rows // 3, *columns) if place.third is not None else (rows, *columns)
        shape = shape[::-1] if place.transposed else shape
        if _plain(shape) != _plain(wanted[name]):
            raise MisfitError("models.weight_shape", name=name, there=str(list(shape)), wanted=str(list(wanted[name])))
    module.source = source
    return module


def is_on_meta(module: Any) -> bool:
    return bool(next(module.parameters()).is_meta)


def load_to(module: Any, device: torch.device | str) -> Any:
    """Let a module stand on `device`; one on the meta device is read from its files straight to there.

    Raises:
        UserError: the files cannot be read any more.
    """
    if not is_on_meta(module):
        return module.to(device)
    source: Source = module.source
    try:
        weights = source.open()
        try:
            _fill(module, weights, source, device)
        finally:
            weights.close()
    except UserError:
        raise
    except (OSError, ValueError, KeyError) as cause:
        raise UserError("models.unreadable", path=source.where, cause=cause) from cause
    return module


def offload(module: Any) -> None:
    """Give a module's memory back, if it can be read again; else move it to the CPU."""
    module.to("meta" if hasattr(module, "source") else "cpu")


@contextmanager
def on_device(modules: Iterable[Any], device: torch.device | str) -> Iterator[None]:
    """Modules stand on `device` within the block and are as they were after it: elsewhere, or on the meta device."""
    homes = [(module, next(module.parameters()).device) for module in modules]
    try:
        for module, _ in homes:
            load_to(module, device)
        yield
    finally:
        for module, home in homes:
            module.to(home)


def free_device_memory() -> None:
    """Give what torch keeps of the devices' memory for later use back to the system.

    Never raises: a card that is lost has nothing to give, and what became of it is told by who computes there.
    """
    for backend in (torch.cuda, torch.xpu, torch.mps):
        available = getattr(backend, "is_available", torch.backends.mps.is_available)
        if available():
            with in_turn, contextlib.suppress(RuntimeError):
                backend.empty_cache()


def _matched(
    names: Iterable[str], header: Header, places: Callable[[str], Sequence[Place]]
) -> dict[str, tuple[Place, tensor_headers.Tensor]]:
    """For every weight, where it stands and what stands there."""
    found = {name: next((place for place in places(name) if place.name in header.tensors), None) for name in names}
    if missing := [name for name, place in found.items() if place is None]:
        first, *rest = missing
        if rest:
            raise MisfitError("models.weights_missing", name=first, count=len(rest))
        raise MisfitError("models.weight_missing", name=first)
    return {name: (place, header.tensors[place.name]) for name, place in found.items() if place is not None}


def _fill(module: nn.Module, weights: Weights, source: Source, device: torch.device | str) -> None:
    wanted = {name: tensor.shape for name, tensor in module.state_dict().items()}
    there = [(name, place) for name, (place, _) in _matched(wanted, weights.header, source.places).items()]
    there.sort(key=lambda pair: weights.header.starts.get(pair[1].name, 0))  # disks like to go forward
    state: dict[str, Tensor] = {}
    held, tensor = "", torch.empty(0)
    for name, place in there:
        if place.name != held:
            held, tensor = place.name, weights.read(place.name)
        # A third is copied, or it would keep the whole.
        weight = _fitted(tensor, place, wanted[name]).to(device, source.dtype, copy=place.third is not None)
        state[name] = int8.taken(module.get_submodule(name.rpartition(".")[0]), name, weight)
    module.load_state_dict(state, strict=True, assign=True)
    _fill_positions(module, device)


def _fitted(tensor: Tensor, place: Place, shape: torch.Size) -> Tensor:
    if place.third is not None:
        rows = tensor.shape[0] // 3
        tensor = tensor[place.third * rows : (place.third + 1) * rows]
    if place.transposed:
        tensor = tensor.T.contiguous()
    return tensor.reshape(shape)


def _plain(shape: Sequence[int]) -> tuple[int, ...]:
    """1x1 convolutions and linear layers hold the same numbers."""
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
