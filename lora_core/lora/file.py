"""The LoRA file: one .safetensors that loads unchanged in the webuis, sd-scripts and diffusers.

Names are those of `dialects/webui.py`. Whatever a file was written by, `read` gives the same kind of value.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lora_core.lora.adapter import Adapter, Lora, LoraError, NoEffectError
from lora_core.lora.dialects import decode, peft, webui
from lora_core.lora.dialects.modules import leaf, loads_everywhere
from lora_core.lora.shapes import family_of, fit, with_second_text_encoder
from lora_core.models.families.specs import FAMILIES
from lora_core.system import tensor_headers
from lora_core.system.files import WriteError, free_bytes, whole_file

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
_PICKLES = (b"PK", *(b"\x80" + bytes([version]) for version in range(2, 6)))  # as torch.save wrote and writes them
_HEADER_ALLOWANCE = 1_000_000  # bytes kept free beyond the tensors


def write(path: Path, lora: Lora, family: str, metadata: Mapping[str, str], dtype: str) -> None:
    """Write a LoRA, whole or not at all: the file takes its name only after it was reopened and compared.

    family: its name. dtype: "fp16", "bf16" or "fp32", for the matrices; alpha and dora_scale are always
    fp32, so that the strength is exact. `sshs_*` are added to the metadata.

    Raises:
        NoEffectError: every picture would stay as it is.
        LoraError: a number that is not finite, a module not every webui loads, shapes of another family, a DoRA over
            outputs.
        WriteError: the file could not be written.
    """
    assert family in FAMILIES, family
    tensors = to_tensors(lora, family, dtype)
    data = pack(tensors, metadata)
    if (free := free_bytes(path.parent)) < len(data) + _HEADER_ALLOWANCE:
        raise WriteError("lora.disk_full", file=path, needed=len(data) / 1e6, free=free / 1e6)
    with whole_file(path) as temporary:
        temporary.write_bytes(data)
        _verify(temporary, tensors, metadata)


def read(path: Path) -> tuple[Lora, dict[str, str]]:
    """The LoRA in a .safetensors of any dialect and family, with its metadata; tensors as stored, on the CPU.

    Raises:
        LoraError: no such file, not a .safetensors, cut short, or no LoRA.
    """
    tensors, metadata = load_tensors(path)
    metadata = {**peft.settings_beside(path), **metadata}
    return decoded(path, tensors, metadata), metadata


def tensors_hash(path: Path) -> str:
    """The sshs_model_hash of a .safetensors by its tensors, whatever its metadata claim."""
    data = path.read_bytes()
    return hashlib.sha256(memoryview(data)[8 + int.from_bytes(data[:8], "little") :]).hexdigest()


def decoded(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Lora:
    """The LoRA in the tensors of a file. Raises LoraError, which names the file."""
    try:
        return with_second_text_encoder(decode(tensors, metadata))
    except LoraError as cause:
        raise LoraError("lora.in_file", file=path, what=cause) from None


def to_tensors(lora: Lora, family: str, dtype: str) -> dict[str, Tensor]:
    """The tensors of the file by their names in it; checked for all that `write` promises."""
    if odd := [module for module in lora if not loads_everywhere(module)]:
        raise LoraError("lora.odd_layer", layer=odd[0].partition(".")[2])
    if any(adapter.is_over_outputs for adapter in lora.values()):
        raise LoraError("lora.dora_over_outputs")
    _check_widths(lora, family)
    tensors: dict[str, Tensor] = {}
    for module, adapter in sorted(fit(lora, family).items()):
        name = webui.name(module, family)
        matrices = (
            {"lora_down.weight": adapter.down, "lora_up.weight": adapter.up}
            if isinstance(adapter, Adapter)
            else adapter.tensors
        )
        for part, matrix in matrices.items():
            tensors[f"{name}.{part}"] = _stored(matrix, DTYPES[dtype], module)
        tensors[f"{name}.alpha"] = _stored(torch.tensor(adapter.alpha), torch.float32, module)
        if adapter.dora_scale is not None:
            tensors[f"{name}.dora_scale"] = _stored(adapter.dora_scale, torch.float32, module)
    _check_effect(tensors)
    return tensors


def serialise(lora: Lora, family: str, metadata: Mapping[str, str], dtype: str) -> bytes:
    """The whole file as `write` writes it; checked like there."""
    return pack(to_tensors(lora, family, dtype), metadata)


def is_ready(path: Path, lora: Lora, family: str) -> bool:
    """Whether the file `lora` was read from has our names and layouts already. Raises LoraError like `to_tensors`."""
    wanted = to_tensors(lora, family, width_of(lora))
    with path.open("rb") as file:
        found = tensor_headers.safetensors(file, path).tensors
    return {name: t.shape for name, t in found.items()} == {name: tuple(t.shape) for name, t in wanted.items()}


def width_of(lora: Lora) -> str:
    """The narrowest of our dtypes that loses nothing of the matrices."""
    found = {tensor.dtype for adapter in lora.values() for tensor in adapter.matrices}
    return next((name for name, dtype in DTYPES.items() if found == {dtype}), "fp32")


def pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A .safetensors with the hashes webuis know a LoRA by, as sd-scripts computes them (`networks/lora.py`).

    sshs_model_hash: SHA-256 of the tensor section, the AutoV3 of Civitai. sshs_legacy_hash: 8 hex digits of the
    SHA-256 of 64 KiB at 1 MiB, in a file that holds the ss_ metadata only: what is added later must not change it.
    The header is in a fixed order, so the same LoRA is the same file.
    """
    data: bytes = save(dict(tensors), {key: value for key, value in metadata.items() if key.startswith("ss_")})
    start = 8 + int.from_bytes(data[:8], "little")
    section = memoryview(data)[start:]
    hashes = {
        "sshs_model_hash": hashlib.sha256(section).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8],
    }
    layout = json.loads(data[8:start])
    layout.pop("__metadata__", None)
    table = {"__metadata__": dict(sorted({**metadata, **hashes}.items())), **layout}
    header = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    header += b" " * (-len(header) % 8)  # the format wants the tensors to begin at a multiple of 8
    return b"".join((len(header).to_bytes(8, "little"), header, section))


def _check_widths(lora: Lora, family: str) -> None:
    """The cross-attention must be as wide as the family's; where there is none, the caller knows best."""
    if not lora:
        raise NoEffectError("lora.no_adapters")
    cross = {m: a for m, a in lora.items() if ".attn2." in m and leaf(m) in ("to_k", "to_v")}
    if cross and (real := family_of(cross)) != family:
        raise LoraError("lora.other_family", found=real, family=family)


def _check_effect(tensors: Mapping[str, Tensor]) -> None:
    idle = {name.partition(".")[0] for name, tensor in tensors.items() if not (tensor.any() or name.endswith("dora_scale"))}
    if all(name.partition(".")[0] in idle for name in tensors):
        raise NoEffectError("lora.no_effect")


def _stored(tensor: Tensor, dtype: torch.dtype, module: str) -> Tensor:
    stored = tensor.detach().to("cpu", dtype).contiguous()
    if not torch.isfinite(stored).all():
        if torch.isfinite(tensor).all():
            raise LoraError("lora.too_large", module=module, dtype=dtype)
        raise LoraError("lora.not_finite", module=module)
    return stored.clone()  # of its own memory: safetensors refuses tensors that share any


def _verify(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Compare the file on disk with what was meant, number by number."""
    found, header = load_tensors(path)
    said = {key: value for key, value in header.items() if not key.startswith("sshs_")}
    meant = {key: value for key, value in metadata.items() if not key.startswith("sshs_")}
    same = found.keys() == tensors.keys() and said == meant
    if not same or any(not _equal(found[name], tensor) for name, tensor in tensors.items()):
        raise WriteError("lora.other_bytes")


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Every tensor of a .safetensors by its name in the file, and the metadata. Raises LoraError."""
    try:
        data = path.read_bytes()  # not mapped: Windows replaces no file that is mapped
    except FileNotFoundError:
        raise LoraError("lora.no_file", file=path) from None
    except OSError as cause:
        raise LoraError("lora.unreadable", file=path, why=cause.strerror or cause) from None
    try:
        return load(data), dict(tensor_headers.safetensors(io.BytesIO(data), path).metadata)
    except (SafetensorError, ValueError):
        # Asked last: the length that a .safetensors begins with may be the same two bytes.
        is_pickle = data[:2] in _PICKLES and data[8:9] != b"{"
        raise LoraError("lora.pickle" if is_pickle else "lora.cut_short", file=path) from None
