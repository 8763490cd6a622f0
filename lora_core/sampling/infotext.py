"""How a picture was made, as the text in its PNG that A1111, Forge and SD.Next read back into their fields."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lora_core.system.files import whole_file

if TYPE_CHECKING:
    from lora_core.sampling.sample import Wish

_KEY = "parameters"


@dataclass(frozen=True)
class LoraCall:
    """A LoRA as a prompt calls it. `hash`: sshs_model_hash of its file, "" when unknown."""

    name: str
    weight: float
    hash: str = ""

    @property
    def tag(self) -> str:
        return f"<lora:{self.name}:{self.weight:g}>"


def parameters_text(
    wish: Wish, model_name: str, lora: LoraCall | None = None, more: Mapping[str, str] | None = None
) -> str:
    """The text in A1111's form (its `modules/infotext_utils.py`); `more`: fields at its end.

    Of the model only the last part of its name is told: the rest may be a folder of the user's.
    """
    prompt = f"{wish.prompt} {lora.tag}".lstrip() if lora else wish.prompt
    negative = f"\nNegative prompt: {wish.negative_prompt}" if wish.negative_prompt else ""
    fields = {
        "Steps": str(wish.steps), "Sampler": wish.sampler, "CFG scale": f"{wish.guidance:g}", "Seed": str(wish.seed),
        "Size": f"{wish.width}x{wish.height}", "Model": re.split(r"[\\/]", model_name.rstrip("\\/"))[-1],
    }  # fmt: skip
    if lora and lora.hash:
        fields["Lora hashes"] = f"{lora.name}: {lora.hash[:12]}"
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


def parameters_of(path: Path) -> str:
    """The text in a PNG, "" when it has none. Raises OSError."""
    with Image.open(path) as picture:
        return str(getattr(picture, "text", {}).get(_KEY, ""))
