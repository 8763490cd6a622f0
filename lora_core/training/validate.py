"""A loss that means something: fixed noise, fixed timesteps, held-out pictures; and the same on training pictures.

The loss of a training step mostly says which timestep was drawn. Measured on the same noise every time, only the model
moves it: when the held-out curve turns up while the training curve falls on, the LoRA has begun to memorise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from lora_core.models.families.base import BaseModel
from lora_core.sampling.sample import evaluating
from lora_core.training import diffusion
from lora_core.training.data.latent_cache import Example, Prompts
from lora_core.training.data.validation import TIMESTEPS, pictures_measured, timesteps_at_once


@dataclass(frozen=True)
class Score:
    """Mean squared error on held-out pictures (training pictures where there are none) and on training pictures."""

    loss: float
    train_loss: float


def validate(model: BaseModel, prompts: Prompts, held_out: Sequence[Example], training: Sequence[Example]) -> Score:
    """Measure both losses on at most 16 pictures each; the same numbers are drawn at every call."""
    held, trained = pictures_measured(len(held_out), len(training))
    train_loss = _loss(model, prompts, training[:trained])
    return Score(_loss(model, prompts, held_out[:held]) if held_out else train_loss, train_loss)


@torch.no_grad()
def _loss(model: BaseModel, prompts: Prompts, examples: Sequence[Example]) -> float:
    schedule = model.scheduler.alphas_cumprod
    timesteps = torch.linspace(0.02, 0.98, TIMESTEPS).mul(len(schedule)).long()
    total = torch.zeros((), device=model.device)
    with evaluating(model):
        for index, example in enumerate(examples):
            rng = diffusion.generator(0, index)
            latents = example.views[0][0].to(model.device) * model.vae.config.scaling_factor
            latents = latents[None].expand(TIMESTEPS, -1, -1, -1)
            noise = diffusion.sample_noise(latents, rng)
            at_once = timesteps_at_once(latents[0, 0].numel())
            for x_0, eps, t in zip(*(part.split(at_once) for part in (latents, noise, timesteps)), strict=True):
                abar = schedule[t].to(x_0.device)
                conditioning = prompts([example.caption] * len(t), [example.frame] * len(t))
                noisy = diffusion.add_noise(x_0, eps, abar)
                prediction = model.predict(noisy, t.to(x_0.device), conditioning)
                target = diffusion.target(model.prediction_type, x_0, eps, abar)
                total += F.mse_loss(prediction, target) * (len(t) / TIMESTEPS)
    return float(total / len(examples))
