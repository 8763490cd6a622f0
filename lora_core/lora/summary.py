"""What is known of a LoRA file, read once: for a person who has one and wants to use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_core.config import values_of
from lora_core.errors import UserError
from lora_core.lora.adapter import Lora
from lora_core.lora.dialects import dialects_of
from lora_core.lora.dialects.modules import loads_everywhere
from lora_core.lora.dialects.webui import invokeai_family
from lora_core.lora.file import decoded, load_tensors, width_of
from lora_core.lora.lycoris import TITLES, Lycoris
from lora_core.lora.metadata import CONFIG
from lora_core.lora.shapes import UnknownFamilyError, family_of, is_toy
from lora_core.messages import Message
from lora_core.models.families.specs import FAMILIES


@dataclass(frozen=True)
class LoraSummary:
    """A LoRA in plain values. `family` is "" where nothing in it tells; see `known_family`."""

    path: Path
    size: int  # bytes
    family: str
    dialects: tuple[str, ...]
    modules: int
    ranks: tuple[int, ...]
    dtype: str
    kinds: tuple[str, ...]  # as a person calls what is not plain: DoRA, LoHa, LoKr
    is_toy: bool  # made for the starter or another toy
    has_text_encoder: bool
    left_out: tuple[str, ...]  # modules that not every webui loads
    warnings: tuple[Message, ...]
    metadata: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> LoraSummary:
        """The summary of a LoRA of any dialect.

        Raises:
            LoraError: no such file, cut short, a pickle, or no LoRA for Stable Diffusion 1, 2 or XL.
        """
        tensors, metadata = load_tensors(path)
        lora = decoded(path, tensors, metadata)
        try:
            family = family_of(lora, metadata)
        except UnknownFamilyError:
            family = ""
        return cls(
            path=path, size=path.stat().st_size, family=family, dialects=dialects_of(tensors), modules=len(lora),
            ranks=tuple(sorted({adapter.rank for adapter in lora.values()})), dtype=width_of(lora),
            kinds=tuple(TITLES[kind] for kind in sorted({adapter.kind for adapter in lora.values()} - {"lora"})),
            is_toy=is_toy(lora),
            has_text_encoder=any(module.startswith("text_encoder") for module in lora),
            left_out=tuple(module for module in lora if not loads_everywhere(module)),
            warnings=warnings_for(lora), metadata=metadata,
        )  # fmt: skip

    @property
    def title(self) -> str:
        return self.metadata.get("modelspec.title") or self.metadata.get("ss_output_name", "")

    @property
    def base_model(self) -> str:
        """The name of the base model, without the folders in front of it."""
        return self.metadata.get("ss_sd_model_name", "")

    @property
    def hash(self) -> str:
        """The sshs_model_hash by which webuis know it again."""
        return self.metadata.get("sshs_model_hash", "")

    def known_family(self) -> str:
        """The family. Raises UnknownFamilyError where nothing tells it."""
        if not self.family:
            raise UnknownFamilyError("lora.family_unknown")
        return self.family

    def settings(self) -> dict[str, Any]:
        """The settings of the training that Treino wrote into it; {} where there are none that this version knows."""
        try:
            return values_of(self.metadata.get(CONFIG, ""), self.path)
        except UserError:
            return {}


def warnings_for(lora: Lora) -> tuple[Message, ...]:
    """What may make a LoRA useless, or other than it was trained, in programs that load it."""
    is_odd = any(adapter.is_over_outputs for adapter in lora.values())
    is_dora = any(adapter.dora_scale is not None for adapter in lora.values())
    lycoris = sorted({TITLES[adapter.kind] for adapter in lora.values() if isinstance(adapter, Lycoris)})
    found = (
        (is_toy(lora), Message("lora.warned_toy")), (is_odd, Message("lora.dora_over_outputs")),
        (is_dora and not is_odd, Message("lora.warned_dora")),
        (bool(lycoris), Message("lora.warned_lycoris", kind=" + ".join(lycoris))),
    )  # fmt: skip
    return tuple(message for is_so, message in found if is_so)


def invokeai_warning(widths: Mapping[str, int], family: str) -> Message | None:
    """What to say where InvokeAI does not know such a LoRA for one of its family; widths: the inputs of each module."""
    taken = invokeai_family(widths, family)
    if taken == family:
        return None
    if not taken:
        return Message("lora.invokeai_unknown")
    return Message("lora.invokeai_other", taken=FAMILIES[taken].label, family=FAMILIES[family].label)
