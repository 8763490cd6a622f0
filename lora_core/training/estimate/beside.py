"""What a run does beside its steps, in steps' worth: passes of a validation, samples, and what comes before the first step.

By arithmetic alone: forward passes take of a step's time what they take of its arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING

from lora_core.config import TrainConfig
from lora_core.models.architecture import SMALL_MODEL, Shapes
from lora_core.sampling.params import samples_of
from lora_core.training.data import validation
from lora_core.training.data.validation import MOST_PICTURES, Measure
from lora_core.training.estimate.counts import At, Parts, StepCount, known
from lora_core.training.estimate.proven import count_of, work_of

if TYPE_CHECKING:
    from lora_core.training.data.plan import Plan
    from lora_core.training.estimate.memory import Size

NEVER_COUNTED = 1 / 2  # of a step is its way forward: frozen weights want no gradients of their own


def pass_steps(config: TrainConfig, shapes: Shapes, number_bytes: int, sizes: Collection[Size] = ()) -> float | None:
    """What predicting one picture takes, in steps; None where it was never counted."""
    found, work = count_of(config, shapes, number_bytes), work_of(config, shapes, number_bytes, sizes)
    if found is None or work is None:
        return None
    return _forward(found, config, shapes, (config.resolution, config.resolution)) / work.flops


def _forward(found: StepCount, config: TrainConfig, shapes: Shapes, size: Size) -> float:
    """The arithmetic of predicting one picture."""
    latent = (size[0] // shapes.pixels_per_latent, size[1] // shapes.pixels_per_latent)
    return found.forward.at(At.of(1, latent, config.largest_rank))


def measure(
    config: TrainConfig, held_out: int, trained: int, is_small: bool, of_pass: float | None = None
) -> tuple[Measure, bool]:
    """What is measured of so many pictures, and whether that is too long to be waited for before the first step.

    Of a small model all is: that is over in less than a second. of_pass: `pass_steps`; None: never counted.
    """
    in_steps = 0.0 if is_small else (of_pass or NEVER_COUNTED / config.gradient_accumulation_steps)
    found = validation.measure(held_out, trained, in_steps, config.max_train_steps, config.save_steps)
    return found, found.passes * in_steps > validation.SOON


def in_steps(config: TrainConfig, shapes: Shapes, number_bytes: int, plan: Plan | None) -> dict[str, float]:
    """Validation, samples and caching of the whole run, in steps; empty where they were never counted.

    caching: of pictures that were never encoded before. Without a plan it is left out.
    """
    sizes: Collection[Size] = plan.buckets if plan else ()
    found, work = count_of(config, shapes, number_bytes), work_of(config, shapes, number_bytes, sizes)
    of_pass = pass_steps(config, shapes, number_bytes, sizes)
    if found is None or work is None or of_pass is None:
        return {}
    held, trained = (len(plan.validation), len(plan.training)) if plan else (0, MOST_PICTURES)
    measured, _ = measure(config, held, trained, found.frozen + found.shrunk < SMALL_MODEL, of_pass)
    saves = math.ceil(config.max_train_steps / config.save_steps) + 1
    samples = samples_of(config)
    drawn = sum(p.steps * p.passes * _forward(found, config, shapes, (p.width, p.height)) for p in samples) / work.flops
    told = {"validation": saves * measured.passes * of_pass, "samples": saves * drawn}
    if plan and (parts := known().parts_of(Parts.of(shapes, number_bytes))):
        scale, views = shapes.pixels_per_latent, 2 if config.random_flip else 1
        latents = ((At.of(1, (w // scale, h // scale), config.largest_rank), n) for (w, h), n in plan.buckets.items())
        told["caching"] = views * sum(parts[0].encode_flops.at(at) * n for at, n in latents) / work.flops
    return told


def loading_bytes(shapes: Shapes, number_bytes: int, config: TrainConfig) -> int:
    """Of the base model's file, which mostly is in 16 bit; 0 where it was never counted."""
    found, parts = count_of(config, shapes, number_bytes), known().parts_of(Parts.of(shapes, number_bytes))
    return 2 * (found.frozen + found.shrunk + parts[0].vae + parts[0].texts) if found and parts else 0
