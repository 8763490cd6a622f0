"""What a training will need, told before it starts: memory, disk, and what to change when the memory is not there.

Memory is counted, not guessed (tests/benchmarks/counting): the real step was run once on tensors without memory, and
what it keeps is known as a polynomial in batch, picture size and rank (counts.py). Reading one takes well under a
millisecond. For sides that are multiples of 64 pixels it is exact to the byte of what PyTorch is asked for; for others
it is off by less than a hundredth, for odd sides are rounded up on the way down. What it does not hold are the context
of the driver, workspaces within a kernel, and gaps between tensors: `RESERVE_BYTES` stands for them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from lora_core.config import TrainConfig
from lora_core.models.architecture import Shapes
from lora_core.models.families.specs import FAMILIES
from lora_core.models.vae_tiling import TILE
from lora_core.training.estimate.counts import At, Graph, Parts, PartsCount, StepCount, known, worst

if TYPE_CHECKING:
    from lora_core.models.device import Device
    from lora_core.training.data.plan import Plan

Size = tuple[int, int]  # width, height in pixels
RESERVE_BYTES = 2**30  # a round allowance for driver, desktop, workspaces and gaps; not measured
CARDS_GB = (2, 3, 4, 6, 8, 10, 11, 12, 16, 20, 24, 32, 40, 48, 80, 96, 141)  # as they are sold
DRAWN_AT_ONCE, PIXELS_AT_ONCE = 16, 512 * 512  # sample.py
MOMENTS = {"adamw": 2, "prodigy": 4}  # numbers that an optimizer keeps for each trained one; Adafactor keeps rows
TIMESTEPS, VALIDATED_AREA = 8, 2 * 64 * 64  # validate.py


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


@dataclass(frozen=True)
class Remedy:
    """Settings to change, and the memory they lead to."""

    changes: dict[str, object]
    memory: Memory


@dataclass(frozen=True)
class Verdict:
    """Whether a training fits a device. `has`: its bytes, 0 when unknown. `remedies`: of least harm first; each holds
    the changes of those before it, and the last one fits unless nothing does.

    changes: what makes it fit, costs nothing but time, and is made without asking; `needed` is with it, `whole` without.
    longer: that time, as a share of the step's arithmetic; 0 where only what is cheap is computed again.
    """

    fits: bool
    needed: int
    has: int
    remedies: tuple[Remedy, ...] = ()
    changes: Mapping[str, object] = field(default_factory=dict)
    whole: int = 0
    longer: float = 0.0


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
    return max(found[0].step.at(At.of(config.train_batch_size, latent, config.lora_rank)) for latent in latents)


def bytes_of(config: TrainConfig) -> int:
    """Of a number in the frozen model, as asked for; a CPU without bf16 units takes 4 (precision.choose)."""
    return 4 if config.mixed_precision == "no" else 2


def fits(
    config: TrainConfig, shapes: Shapes, device: Device, sizes: Collection[Size] = (), number_bytes: int = 0
) -> Verdict | None:
    """Whether a training fits a device, and what to change if not; None where its memory is not known.

    The computer's own memory counts for a device without one. On a card, what costs nothing but time is changed first, no
    more of it than needed: recompute. Then, least harm first: smaller batches added up (the same gradient), the optimizer
    in the computer's memory (the same steps, slower by two transfers), the base model in 8 bits (nearly the same), no
    samples, smaller pictures (detail), smaller rank. `number_bytes`: of the frozen model; 0: as asked for, 4 on the CPU.
    """
    import psutil

    taken = partial(needed_on, device)
    width = number_bytes or (4 if device.kind == "cpu" else 0)
    now = memory(config, shapes, sizes, width)
    if now is None:
        return None
    has = device.bytes or int(psutil.virtual_memory().total)
    needed = taken(now)
    for change in quicker_first(config) if device.bytes and needed > has else ():
        less = memory(config.replace(**change), shapes, sizes, width)
        if less and taken(less) <= has:
            work = [arithmetic(asked, shapes, sizes, width) for asked in (config.replace(**change), config)]
            return Verdict(True, taken(less), has, (), change, needed, max(0.0, work[0] / work[1] - 1))
    remedies: list[Remedy] = []
    changes: dict[str, object] = {}
    for change in steps_down(config) if needed > has else ():
        if "optimizer_on_host" in change and not device.bytes:
            continue  # it is there already
        more = {**changes, **change}
        if (less := memory(config.replace(**more), shapes, _scaled(sizes, config, more), width)) is None:
            continue  # what was never counted is not advised, and what comes after it does without
        changes = more
        if less.total < (remedies[-1].memory if remedies else now).total:
            remedies.append(Remedy(changes, less))
            if taken(less) <= has:
                break
    return Verdict(needed <= has, needed, has, tuple(remedies), whole=needed)


def needed_on(device: Device, found: Memory) -> int:
    """Bytes of a device that a training needs, reserve included; where it has no memory of its own, the host's part too."""
    return found.total + RESERVE_BYTES + (0 if device.bytes else found.host)


def quicker_first(config: TrainConfig) -> Iterator[dict[str, object]]:
    """Changes after which a training is the same to the last digit, takes less memory, and more time."""
    lean: dict[str, object] = {} if config.lean_activations else {"lean_activations": True}
    if config.is_compiled:
        lean["torch_compile"] = False
    if lean:
        yield lean
    if not config.gradient_checkpointing:
        yield from ({**lean, "checkpointed_quarters": n} for n in range(config.checkpointed_quarters + 1, 4))
    least: dict[str, object] = {**lean, "checkpointed_quarters": 0, "gradient_checkpointing": True}
    if not config.gradient_checkpointing:
        yield least
    if config.cuda_graphs:  # little memory, and for few kernels on a fast card the longest time
        yield {**least, "cuda_graphs": False}


def steps_down(config: TrainConfig) -> Iterator[dict[str, object]]:
    """Changes that save memory, each beside those before it, of least harm first."""
    for name in ("lean_activations", "gradient_checkpointing"):
        if not getattr(config, name):
            yield {name: True}
    batch, added = config.train_batch_size, config.gradient_accumulation_steps
    while batch > 1:
        smaller = math.ceil(batch / 2)
        added, batch = added * math.ceil(batch / smaller), smaller
        yield {"train_batch_size": batch, "gradient_accumulation_steps": added}
    if not config.optimizer_on_host:
        yield {"optimizer_on_host": True}
    if not config.eight_bit_base:
        yield {"eight_bit_base": True}
    # Samples cost the LoRA nothing: they can be drawn later, from the finished file.
    if config.sample_count:
        yield {"sample_count": 0}
    for share in (3 / 4, 1 / 2):
        resolution = int(config.resolution * share) // 64 * 64
        if resolution >= max(256, config.bucket_step):
            yield {"resolution": resolution}
    rank = config.lora_rank
    while rank > 4:
        rank = max(4, rank // 2)
        yield {"lora_rank": rank}


def _scaled(sizes: Collection[Size], config: TrainConfig, changes: Mapping[str, object]) -> list[Size]:
    resolution = changes.get("resolution", config.resolution)
    assert isinstance(resolution, int)
    share = resolution / config.resolution
    return [(round(width * share), round(height * share)) for width, height in sizes]


# --- the sum ----------------------------------------------------------------------------------------------------------


def _sum(
    config: TrainConfig, shapes: Shapes, step: StepCount, parts: PartsCount, rest: tuple[Collection[Size], int, bool]
) -> Memory:
    sizes, width, exact = rest
    latents = [(w // shapes.pixels_per_latent, h // shapes.pixels_per_latent) for w, h in sizes]
    at = [At.of(config.train_batch_size, latent, config.lora_rank) for latent in latents]
    unet, texts = step.frozen * width + step.shrunk, parts.texts * width
    vae = parts.vae * _vae_bytes(shapes, width)
    kept_texts = texts if config.train_text_encoder or config.shuffle_tags else 0
    numbers = step.adapters.at(at[0])
    adapters = numbers * 4
    state = (step.rows.at(at[0]) if config.optimizer == "adafactor" else MOMENTS[config.optimizer] * numbers) * 4
    optimizer, host = (0.0, state + 2 * adapters) if config.optimizer_on_host else (state, 0.0)
    host += (2 if config.ema_decay else 0) * adapters
    # The gradients of the batches before are there from the beginning, and graphs keep a place for theirs (graphs.py).
    keeps_place = config.cuda_graphs and not config.lora_dropout
    added = adapters if config.gradient_accumulation_steps > 1 or keeps_place else 0.0
    draws = bool(config.sample_count or config.prior_pictures)
    activations = max(worst(step.moments, where) for where in at) + added
    standing = unet + kept_texts + adapters + optimizer
    wider = _vae_bytes(shapes, width) / 4
    tile = worst(parts.encode, At.of(1, (TILE, TILE), config.lora_rank))
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


def _validating(config: TrainConfig, step: StepCount, latents: Sequence[Size]) -> float:
    """Beside the weights: several timesteps of a picture at once, without gradients."""
    batches = [(max(1, min(TIMESTEPS, VALIDATED_AREA // (w * h))), (w, h)) for w, h in latents]
    return max(worst(step.draw, At.of(batch, latent, config.lora_rank)) for batch, latent in batches)


def _drawing(config: TrainConfig, shapes: Shapes, step: StepCount, parts: PartsCount) -> tuple[float, float]:
    """Of itself: predicting a batch of samples, twice for the guidance, and decoding it, in tiles where it is large."""
    side = config.resolution
    at_once = max(1, min(DRAWN_AT_ONCE, PIXELS_AT_ONCE // (side * side)))
    batch = min(at_once, max(config.sample_count, config.prior_pictures, 1))
    latent = (side // shapes.pixels_per_latent,) * 2
    guided = 2 if config.sample_guidance > 1 else 1
    predicted = worst(step.draw, At.of(batch * guided, latent, config.lora_rank))
    tile, finished = (min(TILE, latent[0]),) * 2, 5 * batch * 3 * side * side * 4
    whole, tiled = (worst(parts.decode, At.of(batch, shape, config.lora_rank)) for shape in (latent, tile))
    return predicted, min(whole, tiled + finished)


def _vae_bytes(shapes: Shapes, width: int) -> int:
    """fp32, but for SDXL's where its settings say that it is safe in 16 bit (families/sdxl.py)."""
    return width if FAMILIES[shapes.family].vae_may_be_half and not shapes.vae.get("force_upcast", True) else 4


# --- disk -------------------------------------------------------------------------------------------------------------


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
    numbers = int(found[0].adapters.at(At(1, 1, config.lora_rank)))
    return Disk(run_bytes(config, numbers), _cache_bytes(config, plan, shapes))


def run_bytes(config: TrainConfig, numbers: int) -> int:
    """Of a run folder with adapters of so many numbers: checkpoints and what resuming needs, samples, the LoRA."""
    saves = math.ceil(config.max_train_steps / config.save_steps)
    kept = 1 + MOMENTS.get(config.optimizer, 2) + bool(config.ema_decay)  # weights, the optimizer's, their average: in fp32
    states = min(saves, config.keep_states + 1) * numbers * 4 * kept
    pictures = (saves + 1) * config.sample_count * config.resolution**2 * 3
    return states + (saves + 1) * numbers * 4 + pictures + 20_000_000


def _cache_bytes(config: TrainConfig, plan: Plan, shapes: Shapes) -> int:
    """Mean and deviation in fp32 of each picture, once more mirrored; embeddings of each caption."""
    scale, channels = shapes.pixels_per_latent, int(shapes.vae.get("latent_channels", 4))
    areas = sum((w // scale) * (h // scale) * count for (w, h), count in plan.buckets.items())
    pictures = areas * channels * 2 * 4 * (2 if config.random_flip else 1)
    captions = len({item.caption for item in (*plan.training, *plan.validation)})
    states = 77 * int(shapes.unet["cross_attention_dim"]) * bytes_of(config)
    return pictures + (0 if config.train_text_encoder else captions * states)
