"""How much memory a training will need, told before it starts.

Memory is counted, not guessed (tests/benchmarks/counting): the real step was run once on tensors without memory, and
what it keeps is known as a polynomial in batch, picture size and rank (counts.py). Reading one takes well under a
millisecond. For sides that are multiples of 64 pixels it is exact to the byte of what PyTorch is asked for; for others
it is off by less than a hundredth, for odd sides are rounded up on the way down. What it does not hold are the context
of the driver, workspaces within a kernel, and gaps between tensors: `RESERVE_BYTES` stands for them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_core.config import TrainConfig
from lora_core.dataset.tokens import CHUNK, MARKED
from lora_core.models.architecture import Shapes
from lora_core.models.families.specs import FAMILIES
from lora_core.models.vae_tiling import TILE
from lora_core.sampling.batches import batches_of
from lora_core.sampling.params import GenerationParams, samples_of
from lora_core.training.data.validation import LATENTS_AT_ONCE, timesteps_at_once
from lora_core.training.estimate.counts import At, Graph, Parts, PartsCount, StepCount, known, worst

Size = tuple[int, int]  # width, height in pixels
RESERVE_BYTES = 2**30  # a round allowance for driver, desktop, workspaces and gaps; not measured
CARDS_GB = (2, 3, 4, 6, 8, 10, 11, 12, 16, 20, 24, 32, 40, 48, 80, 96, 141)  # as they are sold
MOMENTS = {"adamw": 2, "prodigy": 4}  # numbers that an optimizer keeps for each trained one; Adafactor keeps rows


@dataclass(frozen=True)
class Memory:
    """Device memory in bytes, without `RESERVE_BYTES`.

    weights, adapters, optimizer: what stands there while stepping; activations: what a step adds at its worst moment.
    peak_cache, peak_step, peak_draw: the most while pictures and captions are encoded, while stepping, while samples
    are drawn and the loss is validated. exact: this very graph was counted; else one that holds it, so at most this.
    host: bytes of the computer's memory that the training holds beside a card, whatever the device.
    """

    weights: int
    adapters: int
    optimizer: int
    activations: int
    peak_cache: int
    peak_step: int
    peak_draw: int
    exact: bool = True
    host: int = 0

    @property
    def total(self) -> int:
        return max(self.peak_cache, self.peak_step, self.peak_draw)

    @property
    def smallest_card_gb(self) -> int | None:
        """The smallest card, in GB as they are sold, that this fits on; None: on none."""
        needed = self.total + RESERVE_BYTES
        return next((card for card in CARDS_GB if card * 2**30 >= needed), None)


def memory(config: TrainConfig, shapes: Shapes, sizes: Collection[Size] = (), number_bytes: int = 0) -> Memory | None:
    """The memory of a training on a model with these shapes; None when neither its graph nor one that holds it was counted.

    Quick, for a form that asks at every key. `sizes`: the bucket sizes in pixels, where they are known; else squares.
    `number_bytes`: of the frozen model, where the device asks for another format than `config.mixed_precision` does; 0:
    as asked.
    """
    width = number_bytes or bytes_of(config)
    step, parts = known().step(Graph.of(shapes, config, width)), known().parts_of(Parts.of(shapes, width))
    if step is None or parts is None:
        return None
    rest = (sizes or [(config.resolution,) * 2], width, step[1] and parts[1])
    return _sum(config, shapes, step[0], parts[0], rest)


def arithmetic(config: TrainConfig, shapes: Shapes, sizes: Collection[Size] = (), number_bytes: int = 0) -> float:
    """FLOPs of a batch of the largest pictures, of what was counted (`memory`)."""
    found = known().step(Graph.of(shapes, config, number_bytes or bytes_of(config)))
    assert found, "its memory is known"
    scale = shapes.pixels_per_latent
    latents = [(w // scale, h // scale) for w, h in sizes or [(config.resolution,) * 2]]
    return max(found[0].step.at(At.of(config.train_batch_size, latent, config.largest_rank)) for latent in latents)


def bytes_of(config: TrainConfig) -> int:
    """Of a number in the frozen model, as asked for; a CPU without bf16 units takes 4 (precision.choose)."""
    return 4 if config.mixed_precision == "no" else 2


def _sum(
    config: TrainConfig, shapes: Shapes, step: StepCount, parts: PartsCount, rest: tuple[Collection[Size], int, bool]
) -> Memory:
    sizes, width, exact = rest
    latents = [(w // shapes.pixels_per_latent, h // shapes.pixels_per_latent) for w, h in sizes]
    at = [At.of(config.train_batch_size, latent, config.largest_rank) for latent in latents]
    unet, texts = step.frozen * width + step.shrunk, parts.texts * width
    vae = parts.vae * _vae_bytes(shapes, width)
    kept_texts = texts if config.train_text_encoder or config.shuffle_tags else 0
    numbers = step.adapters.at(at[0])
    adapters = numbers * 4
    state = (step.rows.at(at[0]) if config.optimizer == "adafactor" else MOMENTS[config.optimizer] * numbers) * 4
    optimizer, host = (0.0, state + 2 * adapters) if config.optimizer_on_host else (state, 0.0)
    host += (2 if config.ema_decay else 0) * adapters
    # The gradients of the batches before are there from the beginning, and graphs keep a place for theirs (graphs.py).
    keeps_place = config.cuda_graphs == "on" and not config.lora_dropout
    added = adapters if config.gradient_accumulation_steps > 1 or keeps_place else 0.0
    draws = bool(config.sample_count or config.prior_pictures)
    activations = max(worst(step.moments, where) for where in at) + added + _of_longer_captions(config, shapes, width)
    standing = unet + kept_texts + adapters + optimizer
    wider = _vae_bytes(shapes, width) / 4
    tile = worst(parts.encode, At.of(1, (TILE, TILE), config.largest_rank))
    encode = max(min(worst(parts.encode, where), tile) for where in at) * wider + vae + kept_texts
    caption = worst(parts.text, at[0]) + texts
    predicted, decoded = _drawing(config, shapes, step, parts)
    # Prompts are encoded ahead unless the encoders stay; for decoding, where it does not fit, the UNet steps aside. What
    # is large for the VAE, it encodes and decodes in tiles.
    drawing = max(caption - texts, predicted, vae + decoded - unet)
    return Memory(
        weights=int(unet + kept_texts), adapters=int(adapters), optimizer=int(optimizer), activations=int(activations),
        peak_cache=int(max(encode, caption)), peak_step=int(standing + activations),
        peak_draw=int(standing + max(_validating(config, step, latents), drawing if draws else 0.0)), exact=exact,
        host=int(host),
    )  # fmt: skip


def _of_longer_captions(config: TrainConfig, shapes: Shapes, width: int) -> float:
    """What a step keeps of captions beyond their first 75 tokens, at most: keys and values of every cross attention, and
    what trained text encoders hold of a part (of each layer about 18 numbers for each of its width and token).
    """
    parts = config.max_token_length // CHUNK
    if parts == 1:
        return 0.0
    # Beside one of another length each is repeated to the least common multiple (families/text.py).
    together = math.lcm(*range(1, parts + 1)) if config.train_batch_size > 1 else parts
    states = int(shapes.unet["cross_attention_dim"]) + 2 * sum(_cross_widths(shapes.unet))
    if config.train_text_encoder:
        texts = shapes.text_encoders.values()
        states += 18 * sum(int(text["hidden_size"]) * int(text["num_hidden_layers"]) for text in texts)
    return float(config.train_batch_size * (together - 1) * MARKED * states * width)


def _cross_widths(unet: Mapping[str, Any]) -> list[int]:
    """The width of each cross attention of a UNet, from its settings."""
    widths, resnets = list(unet["block_out_channels"]), unet.get("layers_per_block", 2)
    depth = unet.get("transformer_layers_per_block", 1)
    depths = [depth] * len(widths) if isinstance(depth, int) else list(depth)
    down = [
        width
        for width, n, kind in zip(widths, depths, unet["down_block_types"], strict=True)
        for _ in range(n * resnets if kind.startswith("CrossAttn") else 0)
    ]
    up = [
        width
        for width, n, kind in zip(widths[::-1], depths[::-1], unet["up_block_types"], strict=True)
        for _ in range(n * (resnets + 1) if kind.startswith("CrossAttn") else 0)
    ]
    return [*down, *[widths[-1]] * depths[-1], *up]  # fmt: skip


def validated_at_once(config: TrainConfig, shapes: Shapes, sizes: Collection[Size] = (), number_bytes: int = 0) -> int:
    """Latent pixels of a batch in a validation: as many as take no more memory than a step does."""
    found = known().step(Graph.of(shapes, config, number_bytes or bytes_of(config)))
    scale = shapes.pixels_per_latent
    latents = [(w // scale, h // scale) for w, h in sizes or [(config.resolution,) * 2]]
    return _at_once(config, found[0], latents) if found and found[1] else LATENTS_AT_ONCE


def _at_once(config: TrainConfig, step: StepCount, latents: Sequence[Size]) -> int:
    in_step = max(worst(step.moments, At.of(config.train_batch_size, latent, config.largest_rank)) for latent in latents)
    for times in (4, 2):
        if _predicted(config, step, latents, times * LATENTS_AT_ONCE) <= in_step:
            return times * LATENTS_AT_ONCE
    return LATENTS_AT_ONCE


def _validating(config: TrainConfig, step: StepCount, latents: Sequence[Size]) -> float:
    """Beside the weights: several timesteps of a picture at once, without gradients."""
    return _predicted(config, step, latents, _at_once(config, step, latents))


def _predicted(config: TrainConfig, step: StepCount, latents: Sequence[Size], at_once: int) -> float:
    batches = [(timesteps_at_once(w * h, at_once), (w, h)) for w, h in latents]
    return max(worst(step.draw, At.of(batch, latent, config.largest_rank)) for batch, latent in batches)


def _drawing(config: TrainConfig, shapes: Shapes, step: StepCount, parts: PartsCount) -> tuple[float, float]:
    """Of itself: predicting a batch of samples, twice for the guidance, and decoding it, in tiles where it is large."""
    prior = GenerationParams("", 0, config.resolution, config.resolution, guidance=config.sample_guidance)
    batches = batches_of(samples_of(config)) + batches_of([prior] * config.prior_pictures)
    predicted = decoded = 0.0
    for batch in batches:
        width, height = batch[0].width, batch[0].height
        latent = (width // shapes.pixels_per_latent, height // shapes.pixels_per_latent)
        predicted = max(predicted, worst(step.draw, At.of(len(batch) * batch[0].passes, latent, config.largest_rank)))
        tile, finished = (min(TILE, latent[0]), min(TILE, latent[1])), 5 * len(batch) * 3 * width * height * 4
        whole, tiled = (worst(parts.decode, At.of(len(batch), shape, config.largest_rank)) for shape in (latent, tile))
        decoded = max(decoded, min(whole, tiled + finished))
    return predicted, decoded


def _vae_bytes(shapes: Shapes, width: int) -> int:
    """fp32, but for SDXL's where its settings say that it is safe in 16 bit (families/sdxl.py)."""
    return width if FAMILIES[shapes.family].vae_may_be_half and not shapes.vae.get("force_upcast", True) else 4
