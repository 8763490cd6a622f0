"""All that makes one picture, as one value."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lora_core.config import TrainConfig
from lora_core.sample_prompts import read_sample_prompt

_IN_CACHE_KEY = ("prompt", "seed", "width", "height", "negative_prompt", "steps", "guidance", "sampler")
_READING = ("clip_skip", "max_token_length")  # how prompts are read


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
    def passes(self) -> int:
        """Predictions in a denoising step: guidance compares two."""
        return 2 if self.guidance > 1 else 1

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
        held |= {name: getattr(self, name) for name in _READING if getattr(self, name) != getattr(GenerationParams, name)}
        return f"Wish({', '.join(f'{name}={value!r}' for name, value in held.items())})"

    def without_lora(self) -> GenerationParams:
        return dataclasses.replace(self, lora="", name="", hash="", trigger="", weight=1.0)


def cache_key_of(wanted: Sequence[GenerationParams]) -> str:
    """Of pictures that are kept together."""
    return f"[{', '.join(params.cache_key for params in wanted)}]"


def params_of(config: TrainConfig, captions: Iterable[str]) -> list[GenerationParams]:
    """The sample pictures of a run: the given prompts with their flags, or the first of its captions."""
    given = [read_sample_prompt(text) for text in config.sample_prompts]
    prompts = given or [(caption, {}) for caption in dict.fromkeys(captions) if caption]
    usual = GenerationParams(
        "", config.seed, config.resolution, config.resolution, config.sample_negative_prompt,
        config.sample_inference_steps, config.sample_guidance, clip_skip=config.clip_skip,
        max_token_length=config.max_token_length,
    )  # fmt: skip
    return [
        dataclasses.replace(usual, **{"prompt": prompt, "seed": config.seed + index, **flags})  # type: ignore[arg-type]
        for index, (prompt, flags) in enumerate(prompts[: config.sample_count])
    ]


def samples_of(config: TrainConfig) -> list[GenerationParams]:
    """`params_of` at most, before the captions are known: for estimates."""
    return params_of(config, map(str, range(config.sample_count)))
