"""The names diffusers and PEFT write: unet.<path>.lora_A.weight, and diffusers' own earlier .lora.down.weight.

PEFT writes no alpha beside the weights. diffusers keeps the adapters' settings in the metadata, without which the
scale is 1; an `.alpha` beside the weights wins over both.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_core.lora.adapter import LoraError
from lora_core.lora.dialects.modules import TEXT_ENCODERS, with_text_model
from lora_core.models.unet_keys import from_original

SETTINGS = "lora_adapter_metadata"
_ENDING = re.compile(
    r"\.(?:(?P<down>lora_A(?:\.default)?\.weight|lora\.down\.weight|lora_linear_layer\.down\.weight)"
    r"|(?P<up>lora_B(?:\.default)?\.weight|lora\.up\.weight|lora_linear_layer\.up\.weight)"
    r"|(?P<magnitude>lora_magnitude_vector(?:\.default)?(?:\.weight)?)|(?P<alpha>alpha))"
)


def split(key: str) -> tuple[str, str] | None:
    """(module, part) of a key; None when the key is of another dialect."""
    match = re.search(_ENDING.pattern + "$", key)
    if not match or key.startswith("lora_"):
        return None
    return module_of(key[: match.start()]), str(match.lastgroup)


def module_of(path: str) -> str:
    """A module by its path with dots; without a component in front it is told by its first block."""
    path = path.removeprefix("base_model.model.")
    component, _, rest = path.partition(".")
    if component in ("text_encoder", "text_encoder_2"):
        return f"{component}.{with_text_model(rest)}"
    if component in ("text_model", "encoder"):
        return f"text_encoder.{with_text_model(path)}"
    path = path.removeprefix("unet.")
    return f"unet.{from_original(path) or path}"


def settings_beside(path: Path) -> dict[str, str]:
    """PEFT's settings beside adapter_model.safetensors, as metadata in diffusers' form; {} where there are none.

    Raises:
        LoraError: there are some, but they cannot be read, and without them the strength is unknown.
    """
    file = path.with_name("adapter_config.json")
    if path.name != "adapter_model.safetensors" or not file.is_file():
        return {}
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        return {SETTINGS: json.dumps({f"{c}.{k}": v for c in ("unet", *TEXT_ENCODERS) for k, v in settings.items()})}
    except (OSError, ValueError, AttributeError):
        raise LoraError("lora.settings_damaged", file=file) from None


def alpha_of(module: str, rank: int, metadata: Mapping[str, str]) -> float:
    """The alpha a module has by the settings in the metadata; the rank, which is scale 1, where there are none.

    Raises:
        LoraError: the settings are not JSON.
    """
    if SETTINGS not in metadata:
        return float(rank)
    component, _, path = module.partition(".")
    settings = _settings(metadata, component)
    names = [path, path.removeprefix("text_model.")]
    alpha = _matching(settings.get("alpha_pattern"), names, settings.get("lora_alpha", rank))
    return float(alpha) * math.sqrt(rank) if settings.get("use_rslora") else float(alpha)


def _settings(metadata: Mapping[str, str], component: str) -> dict[str, Any]:
    try:
        table = json.loads(metadata[SETTINGS])
        return {k.removeprefix(f"{component}."): v for k, v in table.items() if k.startswith(f"{component}.")}
    except (ValueError, AttributeError):
        raise LoraError("lora.settings_not_json", name=SETTINGS) from None


def _matching(pattern: object, names: list[str], default: float) -> float:
    """PEFT's rule: a pattern fits when it is the end of the module's name, and it may be a regular expression."""
    for part, value in (pattern if isinstance(pattern, dict) else {}).items():
        if any(re.match(rf"(.*\.)?({part})$", name) for name in names):
            return float(value)
    return float(default)
