"""The names OneTrainer writes with dots: original block names (its "OMI" format) or diffusers' ones (its own).

    unet.input_blocks.4.1.proj_in.lora_down.weight    clip_l.text_model....alpha    clip_g....dora_scale
    lora_unet.down_blocks.1.attentions.0.proj_in.lora_down.weight    lora_te1.text_model....

Its ComfyUI layout has the names that ComfyUI gives every weight (`comfy/lora.py model_lora_keys_unet`, `_clip`):

    diffusion_model.input_blocks.4.1.proj_in.lora_down.weight    text_encoders.clip_l.transformer.text_model....alpha

Its "legacy" format is the webuis' own and read by `webui.py`.
"""

from __future__ import annotations

import re

from lora_core.lora.dialects.modules import with_text_model
from lora_core.models.unet_keys import from_original

_COMPONENTS = {
    "unet": "unet", "lora_unet": "unet", "diffusion_model": "unet", "text_encoders.clip_l": "text_encoder",
    "text_encoders.clip_h": "text_encoder", "text_encoders.clip_g": "text_encoder_2",
    "clip_l": "text_encoder", "lora_te": "text_encoder",
    "lora_te1": "text_encoder", "clip_g": "text_encoder_2", "lora_te2": "text_encoder_2",
}  # fmt: skip
_KEY = re.compile(
    r"((?:text_encoders\.)?\w+?)\.(?:transformer\.)?(.+)\.(?:lora_(down|up)\.weight|(alpha|dora_scale))"
)


def split(key: str) -> tuple[str, str] | None:
    """(module, part) of a key; None when the key is of another dialect."""
    match = _KEY.fullmatch(key)
    if not match or match[1] not in _COMPONENTS:
        return None
    component, path = _COMPONENTS[match[1]], match[2]
    path = (from_original(path) or path) if component == "unet" else with_text_model(path)
    return f"{component}.{path}", match[3] or match[4]
