"""Any program's LoRA as a file that every webui loads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lora_core.errors import UserError
from lora_core.lora.adapter import LoraError, is_lycoris
from lora_core.lora.dialects.modules import loads_everywhere
from lora_core.lora.file import read, width_of, write
from lora_core.lora.metadata import recognisable
from lora_core.lora.shapes import family_of
from lora_core.lora.summary import warnings_for
from lora_core.messages import Message
from lora_core.system.file_names import check_name


@dataclass(frozen=True)
class Converted:
    """`left_out`: modules that not every webui loads, dropped because that was asked for; `warnings`: what else to know."""

    path: Path
    family: str
    dtype: str
    modules: int
    left_out: tuple[str, ...]
    warnings: tuple[Message, ...]


def convert_lora(
    source: Path, target: Path, family: str = "", dtype: str = "", replace: bool = False, drop: bool = False
) -> Converted:
    """Write the LoRA in `source` (a file, or a folder with one) to `target` (a file, or a folder), whole or not at all.

    family "" is told by the shapes, dtype "" keeps the numbers as they are.

    Raises:
        UserError: not a LoRA, the target exists and `replace` is off, a module not every webui loads and `drop` is off,
            a DoRA over outputs.
    """
    source = file_in(source)
    target = target / f"{source.stem}.safetensors" if target.is_dir() else target
    if target.suffix != ".safetensors":
        raise UserError("lora.no_safetensors", name=target.name)
    check_name(target.stem, target.parent)
    if target.exists() and not replace:
        raise UserError("lora.target_exists", file=target)
    lora, metadata = read(source)
    family = family or family_of(lora, metadata)
    left_out = tuple(module for module in lora if not loads_everywhere(module))
    if left_out and not drop:
        raise LoraError("lora.odd_layers", file=source, layer=left_out[0], count=len(left_out))
    kept = {module: adapter for module, adapter in lora.items() if module not in left_out}
    if not kept:
        raise LoraError("lora.nothing_left", file=source)
    about = recognisable(metadata, family, target.stem, [(a.rank, a.alpha) for a in kept.values()], is_lycoris(kept))
    dtype = dtype or width_of(kept)
    write(target, kept, family, about, dtype)
    return Converted(target, family, dtype, len(kept), left_out, warnings_for(kept))


def file_in(source: Path) -> Path:
    """The one LoRA in a folder such as PEFT and diffusers save (`attn_procs`, `adapter_model.safetensors`)."""
    if not source.is_dir():
        return source
    found = sorted(source.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    if not found and any(source.glob("*.bin")):
        raise UserError("lora.folder_pickle", folder=source)
    if not found:
        raise UserError("lora.folder_empty", folder=source)
    raise UserError("lora.folder_many", folder=source, count=len(found))
