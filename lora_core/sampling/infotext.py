"""How a picture was made, as the text in its PNG that A1111, Forge and SD.Next read back into their fields."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lora_core.sampling.params import GenerationParams
from lora_core.system.files import whole_file

_KEY = "parameters"


def parameters_text(params: GenerationParams, more: Mapping[str, str] | None = None) -> str:
    """The text in A1111's form (its `modules/infotext_utils.py`); `more`: fields at its end.

    Of the model only the last part of its name is told: the rest may be a folder of the user's.
    """
    prompt = f"{params.prompt} {params.lora_tag}".lstrip() if params.has_lora else params.prompt
    negative = f"\nNegative prompt: {params.negative_prompt}" if params.negative_prompt else ""
    fields = {
        "Steps": str(params.steps), "Sampler": params.sampler, "CFG scale": f"{params.guidance:g}",
        "Seed": str(params.seed), "Size": f"{params.width}x{params.height}",
        "Model": re.split(r"[\\/]", params.base.rstrip("\\/"))[-1],
    }  # fmt: skip
    if params.clip_skip > 1:
        fields["Clip skip"] = str(params.clip_skip)
    if params.has_lora and params.hash:
        fields["Lora hashes"] = f"{params.name}: {params.hash[:12]}"
    fields |= more or {}
    return f"{prompt}{negative}\n" + ", ".join(f"{key}: {_quoted(value)}" for key, value in fields.items())


def _quoted(value: str) -> str:
    """As A1111's `infotext_utils.quote`: only where a sign would be taken for the end of the value."""
    return json.dumps(value, ensure_ascii=False) if any(sign in value for sign in ",\n:") else value


def save_picture(path: Path, picture: Image.Image, parameters: str) -> None:
    """Write a PNG with its text, whole or not at all. Raises WriteError."""
    about = PngInfo()
    about.add_itxt(_KEY, parameters)
    with whole_file(path) as temporary, temporary.open("wb") as file:
        picture.save(file, "PNG", pnginfo=about)
