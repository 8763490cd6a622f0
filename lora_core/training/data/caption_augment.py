"""What a caption becomes at a step: dropped, or with its tags in another order."""

from __future__ import annotations

import torch

from lora_core.config import TrainConfig


def caption_for_step(caption: str, config: TrainConfig, rng: torch.Generator) -> str:
    """The caption as this step uses it; draws from `rng` only for what is switched on."""
    if config.caption_dropout and float(torch.rand((), generator=rng)) < config.caption_dropout:
        return ""
    if not config.shuffle_tags:
        return caption
    tags = [tag.strip() for tag in caption.split(",")]
    kept, rest = tags[: config.keep_tags], tags[config.keep_tags :]
    order = torch.randperm(len(rest), generator=rng).tolist()
    return ", ".join([*kept, *(rest[i] for i in order)])


def captions_to_prepare(captions: list[str], config: TrainConfig) -> list[str]:
    """Every caption a step can ask for that can be known ahead; shuffled ones cannot."""
    ahead = [] if config.shuffle_tags else list(captions)
    return [*ahead, ""] if config.caption_dropout else ahead
