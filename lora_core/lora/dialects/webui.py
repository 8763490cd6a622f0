"""The names webuis read (sd-scripts `networks/lora.py`): lora_unet_..., lora_te_..., .lora_down.weight, .alpha.

LyCORIS in diffusers' models, as SimpleTuner runs it, calls the UNet's layers lycoris_<path> and has no text encoder.
"""

from __future__ import annotations

from collections.abc import Mapping

from lora_core.lora.dialects.modules import dotted, with_text_model
from lora_core.lora.lycoris import TENSORS
from lora_core.models.families.specs import FAMILIES
from lora_core.models.unet_keys import from_original, to_original

_PREFIXES = {
    "lycoris_": "unet", "lora_unet_": "unet",
    "lora_te_": "text_encoder", "lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2",
}  # fmt: skip
_PARTS = {
    "lora_down.weight": "down", "lora_up.weight": "up", "alpha": "alpha", "dora_scale": "dora_scale",
    **{name: name for name in TENSORS},
}  # fmt: skip


def name(module: str, family: str) -> str:
    """The webuis' name of a module. SDXL has the original block names: A1111 loses upsamplers under diffusers' ones."""
    spec = FAMILIES[family]
    component, _, path = module.partition(".")
    if component == "unet":
        return "lora_unet_" + (to_original(path) if spec.original_keys else path).replace(".", "_")
    number = {"text_encoder": "1", "text_encoder_2": "2"}[component] if len(spec.text_encoders) > 1 else ""
    return f"lora_te{number}_{path.replace('.', '_')}"


def split(key: str) -> tuple[str, str] | None:
    """(module, part) of a key; None when the key is of another dialect."""
    name, _, ending = key.partition(".")
    prefix = next((p for p in _PREFIXES if name.startswith(p)), None)
    if prefix is None or ending not in _PARTS:
        return None
    path, component = dotted(name.removeprefix(prefix)), _PREFIXES[prefix]
    path = (from_original(path) or path) if component == "unet" else with_text_model(path)
    return f"{component}.{path}", _PARTS[ending]


def invokeai_family(widths: Mapping[str, int], family: str) -> str:
    """The family that InvokeAI takes a file of ours for (its `lora_token_vector_length`); "": it knows none.

    It goes by the inputs of the first layer, in the order of names, that it looks at. Of SDXL's two text encoders it
    wants both, and finds neither where `lora_up` stands behind `lora_down`, as in every file of this dialect.

    widths: the inputs of each adapted module.
    """
    called = {name(module, family): width for module, width in widths.items()}
    for each in sorted(called):
        is_text = each.startswith("lora_te_") and "_self_attn_" in each
        if is_text or each.endswith(("_attn2_to_k", "_attn2_to_v", "_time_emb_proj")):
            return next((spec.name for spec in FAMILIES.values() if called[each] in spec.invokeai_widths), "")
    return ""
