"""Key formats ("dialects"): what the programs of the field call the tensors of a LoRA, each in a file of its own.

A dialect is a function `split(key) -> (module, part) | None`. A file may mix dialects: each key is read by the first
that knows it.

attn_procs  diffusers' attention processors up to 0.20
modules     which modules a Stable Diffusion model has, and their names
onetrainer  OneTrainer's names with dots
peft        diffusers' and PEFT's names
webui       the names that webuis and sd-scripts use, and we write
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from lora_core.lora.adapter import Adapter, LayerChange, Lora, LoraError
from lora_core.lora.dialects import attn_procs, onetrainer, peft, webui
from lora_core.lora.dialects.modules import exists
from lora_core.lora.lycoris import TENSORS, TITLES, Lycoris
from lora_core.messages import Message

_DIALECTS = {"webui": webui.split, "attn_procs": attn_procs.split, "onetrainer": onetrainer.split, "peft": peft.split}
# Endings of other kinds of adapters, which no pair of matrices can stand for.
_OTHER_KINDS = {
    r"\.hada_": "LoHa", r"\.lokr_": "LoKr", r"\.lora_mid\.": Message("lora.kind_tucker"), r"\.oft_": "OFT",
    r"\.on_input$": "IA3", r"\.diff(_b)?$": Message("lora.kind_diff"), r"\.[ab][12]\.weight$": "GLoRA",
    r"\.[wb]_norm$": Message("lora.kind_norms"), r"^bundle_emb\.": Message("lora.kind_embedding"),
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
            raise LoraError("lora.twice", module=hit[0])
    if unknown:
        raise LoraError(_about(unknown, len(tensors)))
    if not parts:
        raise LoraError("lora.no_tensors")
    return {module: _adapter(module, found, metadata) for module, found in sorted(parts.items())}


def dialects_of(names: Iterable[str]) -> tuple[str, ...]:
    """The dialects that names of tensors are in: webui, attn_procs, onetrainer, peft; several where a file mixes them."""
    found = [next((dialect for dialect, split in _DIALECTS.items() if split(name)), "") for name in names]
    return tuple(dialect for dialect in _DIALECTS if dialect in found)


def _about(unknown: list[str], total: int) -> Message:
    for mark, kind in _OTHER_KINDS.items():
        if any(re.search(mark, key) for key in unknown):
            return Message("lora.other_kind", kind=kind, example=unknown[0])
    if len(unknown) == total:
        return Message("lora.not_for_sd", example=unknown[0])
    return Message("lora.odd_tensors", count=len(unknown), example=unknown[0])


def _adapter(module: str, parts: Mapping[str, Tensor], metadata: Mapping[str, str]) -> LayerChange:
    if any(name in parts for name in TENSORS):
        return _lycoris(module, parts)
    if "down" not in parts or "up" not in parts:
        raise LoraError("lora.half_a_pair", module=module)
    down, up, scale = parts["down"], parts["up"], parts.get("dora_scale")
    if down.dim() not in (2, 4) or up.dim() not in (2, 4) or down.shape[0] != up.shape[1]:
        raise LoraError("lora.no_pair", module=module, down=str(list(down.shape)), up=str(list(up.shape)))
    if (magnitude := parts.get("magnitude")) is not None:
        scale = output_axis(magnitude, down.dim())
    strength = _alpha(module, parts)
    if strength is None:
        strength = peft.alpha_of(module, down.shape[0], metadata)
    return Adapter(down, up, strength, scale)


def _lycoris(module: str, parts: Mapping[str, Tensor]) -> Lycoris:
    """LoHa or LoKr; without an alpha it is the rank."""
    alpha = _alpha(module, parts)
    tensors = {name: parts[name] for name in TENSORS if name in parts}
    try:
        found = Lycoris(tensors, 1.0 if alpha is None else alpha)
    except ValueError:
        raise LoraError("lora.no_lycoris", module=module, tensors=sorted(parts)) from None
    if more := sorted(parts.keys() - tensors.keys() - {"alpha"}):  # DoRA's magnitudes, above all
        raise LoraError("lora.other_kind", kind=f"{TITLES[found.kind]} + {more[0]}", example=module)
    return found if alpha is not None else Lycoris(tensors, float(found.rank))


def _alpha(module: str, parts: Mapping[str, Tensor]) -> float | None:
    alpha = parts.get("alpha")
    if alpha is not None and alpha.numel() != 1:
        raise LoraError("lora.alpha", module=module)
    return None if alpha is None else float(alpha.item())


def output_axis(magnitude: Tensor, dimensions: int) -> Tensor:
    """PEFT's DoRA magnitudes, [out] or [1, out, 1, 1], as webuis lay them out: [out, 1] or [out, 1, 1, 1]."""
    return magnitude.reshape(-1, *[1] * (dimensions - 1))
