"""A loss that means something: fixed noise, fixed timesteps, held-out pictures; and the same on training pictures.

The loss of a training step mostly says which timestep was drawn. Measured on the same noise every time, only the model
moves it: when the held-out curve turns up while the training curve falls on, the LoRA has begun to memorise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import functional as F

from lora_core.models.families.base import BaseModel
from lora_core.sampling.sample import evaluating
from lora_core.training import diffusion
from lora_core.training.data.latent_cache import Example, Prompts
from lora_core.training.data.validation import LATENTS_AT_ONCE, Measure, timesteps_at_once, whole


@dataclass(frozen=True)
class Score:
    """Mean squared error on held-out pictures (training pictures where there are none) and on training pictures."""

    loss: float
    train_loss: float


def validate(
    model: BaseModel, prompts: Prompts, held_out: Sequence[Example], training: Sequence[Example],
    asked: Measure | None = None, latents_at_once: int = LATENTS_AT_ONCE,
) -> Score:  # fmt: skip
    """Measure both losses; the same numbers are drawn at every call.

    asked: how much is measured; None: as much as ever. latents_at_once: numbers of a latent's channel in a batch.
    """
    asked = asked or whole(len(held_out), len(training))
    measured = partial(_loss, model, prompts, timesteps_asked=asked.timesteps, latents_at_once=latents_at_once)
    train_loss = measured(training[: asked.trained])
    return Score(measured(held_out[: asked.held_out]) if held_out else train_loss, train_loss)


@torch.no_grad()
def _loss(
    model: BaseModel, prompts: Prompts, examples: Sequence[Example], timesteps_asked: int, latents_at_once: int
) -> float:
    schedule = model.scheduler.alphas_cumprod
    timesteps = torch.linspace(0.02, 0.98, timesteps_asked).mul(len(schedule)).long()
    total = torch.zeros((), device=model.device)
    with evaluating(model):
        for index, example in enumerate(examples):
            rng = diffusion.generator(0, index)
            latents = example.views[0][0].to(model.device) * model.vae.config.scaling_factor
            latents = latents[None].expand(timesteps_asked, -1, -1, -1)
            noise = diffusion.sample_noise(latents, rng)
            at_once = timesteps_at_once(latents[0, 0].numel(), latents_at_once)
            for x_0, eps, t in zip(*(part.split(at_once) for part in (latents, noise, timesteps)), strict=True):
                abar = schedule[t].to(x_0.device)
                conditioning = prompts([example.caption] * len(t), [example.frame] * len(t))
                noisy = diffusion.add_noise(x_0, eps, abar)
                prediction = model.predict(noisy, t.to(x_0.device), conditioning)
                target = diffusion.target(model.prediction_type, x_0, eps, abar)
                total += F.mse_loss(prediction, target) * (len(t) / timesteps_asked)
    return float(total / len(examples))
