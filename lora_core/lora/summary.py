"""What a LoRA file is, for a person who has one and wants to use it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from lora_core.lora.adapter import Lora
from lora_core.lora.dialects import dialects_of
from lora_core.lora.dialects.modules import loads_everywhere
from lora_core.lora.file import read, width_of
from lora_core.lora.shapes import UnknownFamilyError, family_of, is_toy
from lora_core.models.families.specs import FAMILIES

# What may make an export useless, by kind.
WARNINGS = {
    "toy": "This LoRA was made for the starter model, a toy that no webui has, so it will do nothing there. "
    "Train on SD 1.5, SD 2.1 or SDXL for your webui.",
    "dora": "This DoRA is normalised over outputs, which webuis compute differently; pictures may differ.",
    "fooocus": "Fooocus has SDXL models only; this LoRA will do nothing there.",
}


@dataclass(frozen=True)
class LoraFacts:
    """A LoRA in plain values. `family` is "" where nothing in it tells; `warned` holds keys of WARNINGS."""

    path: Path
    size: int  # bytes
    family: str
    dialects: tuple[str, ...]
    modules: int
    ranks: tuple[int, ...]
    dtype: str
    is_dora: bool
    has_text_encoder: bool
    left_out: tuple[str, ...]  # modules that not every webui loads
    warned: tuple[str, ...]
    title: str
    base_model: str


def facts_of(path: Path) -> LoraFacts:
    """Read a LoRA of any dialect.

    Raises:
        LoraError: no such file, cut short, a pickle, or no LoRA for Stable Diffusion 1, 2 or XL.
    """
    lora, metadata = read(path)
    try:
        family = family_of(lora, metadata)
    except UnknownFamilyError:
        family = ""
    return LoraFacts(
        path=path, size=path.stat().st_size, family=family, dialects=dialects_of(_names(path)),
        modules=len(lora), ranks=tuple(sorted({adapter.rank for adapter in lora.values()})), dtype=width_of(lora),
        is_dora=any(adapter.dora_scale is not None for adapter in lora.values()),
        has_text_encoder=any(module.startswith("text_encoder") for module in lora),
        left_out=tuple(module for module in lora if not loads_everywhere(module)),
        warned=warnings_for(lora, family),
        title=metadata.get("modelspec.title") or metadata.get("ss_output_name", ""),
        base_model=metadata.get("ss_sd_model_name", ""),
    )  # fmt: skip


def warnings_for(lora: Lora, family: str, webui_kind: str = "") -> tuple[str, ...]:
    """The keys of WARNINGS that hold for a LoRA in a webui."""
    is_odd = any(adapter.dora_scale is not None and adapter.dora_scale.shape[0] > 1 for adapter in lora.values())
    is_lacking = bool(family) and webui_kind in FAMILIES[family].lacking_webuis
    holds = {"toy": is_toy(lora), "dora": is_odd, "fooocus": is_lacking}
    return tuple(kind for kind, is_so in holds.items() if is_so)


def _names(path: Path) -> list[str]:
    """The names of the tensors, from the header of a .safetensors (8 bytes of length, then JSON)."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return [name for name in header if name != "__metadata__"]
