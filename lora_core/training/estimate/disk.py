"""How much a training will write to the disk at most; downloads are not in it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_core.config import TrainConfig
from lora_core.dataset.tokens import CHUNK, MARKED, count_tokens
from lora_core.models.architecture import Shapes
from lora_core.sampling.params import samples_of
from lora_core.training.estimate.counts import At, Graph, known
from lora_core.training.estimate.memory import MOMENTS, bytes_of

if TYPE_CHECKING:
    from lora_core.training.data.plan import Plan


@dataclass(frozen=True)
class Disk:
    """Bytes that a training will write: in its run folder, and in the cache, which is used again."""

    run: int
    cache: int

    @property
    def total(self) -> int:
        return self.run + self.cache


def disk(config: TrainConfig, plan: Plan, shapes: Shapes) -> Disk | None:
    """What a training leaves on the disk at most; None where its modules were never counted. Downloads not included."""
    found = known().step(Graph.of(shapes, config, bytes_of(config)))
    if found is None:
        return None
    numbers = int(found[0].adapters.at(At(1, 1, config.largest_rank)))
    return Disk(run_bytes(config, numbers), _cache_bytes(config, plan, shapes))


def run_bytes(config: TrainConfig, numbers: int) -> int:
    """Of a run folder with adapters of so many numbers: checkpoints and what resuming needs, samples, the LoRA."""
    saves = math.ceil(config.max_train_steps / config.save_steps)
    kept = 1 + MOMENTS.get(config.optimizer, 2) + bool(config.ema_decay)  # weights, the optimizer's, their average: in fp32
    states = min(saves, config.keep_states + 1) * numbers * 4 * kept
    pictures = (saves + 1) * sum(p.width * p.height for p in samples_of(config)) * 3
    return states + (saves + 1) * numbers * 4 + pictures + 20_000_000


def _cache_bytes(config: TrainConfig, plan: Plan, shapes: Shapes) -> int:
    """Mean and deviation in fp32 of each picture, once more mirrored; embeddings of each caption."""
    scale, channels = shapes.pixels_per_latent, int(shapes.vae.get("latent_channels", 4))
    areas = sum((w // scale) * (h // scale) * count for (w, h), count in plan.buckets.items())
    pictures = areas * channels * 2 * 4 * (2 if config.random_flip else 1)
    captions, most = {item.caption for item in (*plan.training, *plan.validation)}, config.max_token_length // CHUNK
    parts = len(captions)
    if most > 1:  # counting costs time at each look at the plan
        parts = sum(min(most, max(1, math.ceil(count_tokens(caption) / CHUNK))) for caption in captions)
    states = MARKED * int(shapes.unet["cross_attention_dim"]) * bytes_of(config)
    return pictures + (0 if config.train_text_encoder else parts * states)
