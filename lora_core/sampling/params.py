"""All that makes one picture, as one value."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

_IN_CACHE_KEY = ("prompt", "seed", "width", "height", "negative_prompt", "steps", "guidance", "sampler")
_READING = {"clip_skip": 1, "max_token_length": 75}  # how prompts are read


@dataclass(frozen=True)
class GenerationParams:
    """One picture: `width` and `height` in pixels; a seed gives the same picture on any device.

    base: the base model, "" for the one that is loaded. lora: the path of its file, "" for the base model alone;
    name, hash, trigger: what prompts call it by, its sshs_model_hash and its trigger word. vae: path, instead of the
    base model's own.
    """

    prompt: str
    seed: int
    width: int
    height: int
    negative_prompt: str = ""
    steps: int = 25
    guidance: float = 7.5
    sampler: str = "DDIM"  # one of samplers.NAMES
    base: str = ""
    lora: str = ""
    name: str = ""
    hash: str = ""
    trigger: str = ""
    weight: float = 1.0
    vae: str = ""
    prediction_type: str = "auto"
    zero_terminal_snr: str = "auto"
    clip_skip: int = 1
    max_token_length: int = 75

    @property
    def has_lora(self) -> bool:
        return bool(self.lora) and self.weight != 0

    @property
    def lora_tag(self) -> str:
        """The LoRA as A1111's prompts call it."""
        return f"<lora:{self.name}:{self.weight:g}>"

    @property
    def cache_key(self) -> str:
        """The picture of the base model that draws it, in the name of what is kept; what older versions kept is found.

        So it is the text of the class that held these values first, and more of them is in it only where it is not plain.
        """
        held = {name: getattr(self, name) for name in _IN_CACHE_KEY}
        held |= {name: getattr(self, name) for name, plain in _READING.items() if getattr(self, name) != plain}
        return f"Wish({', '.join(f'{name}={value!r}' for name, value in held.items())})"

    def without_lora(self) -> GenerationParams:
        return dataclasses.replace(self, lora="", name="", hash="", trigger="", weight=1.0)


def cache_key_of(wanted: Sequence[GenerationParams]) -> str:
    """Of pictures that are kept together."""
    return f"[{', '.join(params.cache_key for params in wanted)}]"
