"""The names of diffusers' attention processors up to 0.20: ...attn1.processor.to_q_lora.down.weight."""

from __future__ import annotations

import re

from lora_core.lora.dialects.peft import module_of

_KEY = re.compile(r"(.+?)(?:\.processor)?\.(to_q|to_k|to_v|to_out)_lora\.(down|up)\.(?:weight|(alpha))")
_OLD_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}


def split(key: str) -> tuple[str, str] | None:
    """(module, part) of a key; None when the key is of another dialect."""
    match = _KEY.fullmatch(key)
    if not match:
        return None
    path, projection, part = match[1], match[2], match[4] or match[3]
    if path.endswith("self_attn"):
        return module_of(f"{path}.{_OLD_TEXT[projection]}"), part
    return module_of(f"{path}.{'to_out.0' if projection == 'to_out' else projection}"), part
