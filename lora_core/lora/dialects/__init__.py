"""Key dialects: what the programs of the field call the tensors of a LoRA, each in a file of its own.

A dialect is a function `split(key) -> (module, part) | None`. A file may mix dialects: each key is read by the first
that knows it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from lora_core.lora.adapter import Adapter, Lora, LoraError
from lora_core.lora.dialects import attn_procs, onetrainer, peft, webui
from lora_core.lora.dialects.modules import exists

_DIALECTS = {"webui": webui.split, "attn_procs": attn_procs.split, "onetrainer": onetrainer.split, "peft": peft.split}
# Endings of other kinds of adapters, which no pair of matrices can stand for.
_OTHER_KINDS = {
    r"\.hada_": "LoHa", r"\.lokr_": "LoKr", r"\.lora_mid\.": "a LoCon with Tucker decomposition", r"\.oft_": "OFT",
    r"\.on_input$": "IA3", r"\.diff(_b)?$": "a full difference", r"\.[ab][12]\.weight$": "GLoRA",
    r"\.[wb]_norm$": "trained norms", r"^bundle_emb\.": "a bundled embedding",
}  # fmt: skip


def decode(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Lora:
    """The adapters in the tensors of a file, whatever its dialect; dtypes and numbers stay as they are.

    Raises:
        LoraError: keys of no dialect or no module of Stable Diffusion, another kind of adapter, half a pair.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for key, tensor in tensors.items():
        hit = next((found for split in _DIALECTS.values() if (found := split(key))), None)
        if hit is None or not exists(hit[0]):
            unknown.append(key)
        elif parts.setdefault(hit[0], {}).setdefault(hit[1], tensor) is not tensor:
            raise LoraError(f"The file names {hit[0]} twice; it was put together from two LoRAs.")
    if unknown:
        raise LoraError(_about(unknown, len(tensors)))
    if not parts:
        raise LoraError("The file holds no tensors, so it is no LoRA.")
    return {module: _adapter(module, found, metadata) for module, found in sorted(parts.items())}


def dialects_of(names: Iterable[str]) -> tuple[str, ...]:
    """The dialects that names of tensors are in: webui, attn_procs, onetrainer, peft; several where a file mixes them."""
    found = [next((dialect for dialect, split in _DIALECTS.items() if split(name)), "") for name in names]
    return tuple(dialect for dialect in _DIALECTS if dialect in found)


def _about(unknown: list[str], total: int) -> str:
    for mark, kind in _OTHER_KINDS.items():
        if any(re.search(mark, key) for key in unknown):
            return f"The file holds {kind} ({unknown[0]}), which is no plain LoRA and cannot be converted to one."
    if len(unknown) == total:
        return f"The file is no LoRA for Stable Diffusion 1, 2 or XL: it holds {unknown[0]} and the like."
    return f"The file holds {len(unknown)} tensors that no Stable Diffusion LoRA has, for example {unknown[0]}."


def _adapter(module: str, parts: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Adapter:
    if "down" not in parts or "up" not in parts:
        raise LoraError(f"The LoRA lacks half of the pair for {module}; the file is damaged.")
    down, up, scale = parts["down"], parts["up"], parts.get("dora_scale")
    if down.dim() not in (2, 4) or up.dim() not in (2, 4) or down.shape[0] != up.shape[1]:
        raise LoraError(f"The matrices for {module} do not fit each other: {list(down.shape)} and {list(up.shape)}.")
    if (magnitude := parts.get("magnitude")) is not None:
        scale = output_axis(magnitude, down.dim())
    alpha = parts.get("alpha")
    if alpha is not None and alpha.numel() != 1:
        raise LoraError(f"The alpha of {module} is no single number.")
    strength = float(alpha.item()) if alpha is not None else peft.alpha_of(module, down.shape[0], metadata)
    return Adapter(down, up, strength, scale)


def output_axis(magnitude: Tensor, dimensions: int) -> Tensor:
    """PEFT's DoRA magnitudes, [out] or [1, out, 1, 1], as webuis lay them out: [out, 1] or [out, 1, 1, 1]."""
    return magnitude.reshape(-1, *[1] * (dimensions - 1))
