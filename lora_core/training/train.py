"""THE PAGE: how a LoRA is trained.

`train` is the loop, `optimizer_step` a step, `denoising_batch` and `loss_of` the maths.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from lora_core.training import diffusion
from lora_core.training.data.caption_augment import caption_for_step
from lora_core.training.data.latent_cache import Example
from lora_core.training.engine.stepper import MicroBatch
from lora_core.training.optim.build import set_learning_rates
from lora_core.training.prior import prior_batch
from lora_core.training.session import Session


class Callbacks(Protocol):
    """What a training calls between its steps; `callbacks.RunCallbacks` are those of a run."""

    def wants_stop(self, session: Session) -> bool:
        """Whether to end now; blocks while paused."""
        ...

    def wants_sample(self) -> bool: ...

    def wants_save(self) -> bool: ...

    def validate(self, session: Session) -> None: ...

    def sample(self, session: Session) -> None: ...

    def save(self, session: Session) -> None: ...


def train(session: Session, callbacks: Callbacks) -> None:
    """Train to the last step or until told to stop. Everything there is at the end has been validated and saved."""
    config = session.config
    if session.step == 0:
        callbacks.validate(session)
        callbacks.sample(session)
    while session.step < config.max_train_steps:
        if callbacks.wants_stop(session):
            break
        # --- one step -------------------------------------------------------------------------------------------
        learning_rate = set_learning_rates(session.optimizer, config, session.step)
        loss = optimizer_step(session)
        session.step += 1
        session.ema.update(session.step)
        session.meter.add(session.step, loss, learning_rate)
        # --- once in a while ------------------------------------------------------------------------------------
        due = session.step % config.save_steps == 0 or session.step == config.max_train_steps
        save, sample = callbacks.wants_save() or due, callbacks.wants_sample() or due
        if save:
            callbacks.validate(session)
            callbacks.save(session)
        if sample:
            callbacks.sample(session)
    if session.step and session.saved_step != session.step:  # stopped between two saves
        callbacks.validate(session)
        callbacks.save(session)


def optimizer_step(session: Session) -> Tensor:
    """One optimizer step over `gradient_accumulation_steps` batches; returns their mean loss, still on the device.

    Of the batches of a process group, this process computes its share.
    """
    config, scaler = session.config, session.scaler
    total = torch.zeros((), device=session.compute.device)
    trained = list(session.parameters.values())
    for micro in session.group.share(config.gradient_accumulation_steps):
        rng = diffusion.generator(config.seed, session.step, micro)
        if config.lora_dropout:  # dropout draws from the global generator: make that a function of the step too
            torch.manual_seed(rng.initial_seed())
        chosen = session.plan.batch(config, session.step * config.gradient_accumulation_steps + micro)
        batches = [denoising_batch(session, [session.training[i] for i in chosen], rng)]
        if session.prior and session.step % config.prior_every == 0:
            batches.append(prior_batch(session, len(chosen), rng))
        losses_B = session.stepper.backward(partial(loss_of, session), batches, trained, scaler)
        total += losses_B[: len(chosen)].sum()
    total = session.group.add_up(session.parameters.values(), total)
    if config.max_grad_norm:
        scaler.unscale_(session.optimizer)
        torch.nn.utils.clip_grad_norm_(session.parameters.values(), config.max_grad_norm)
    scaler.step(session.optimizer)
    scaler.update()
    session.optimizer.zero_grad(set_to_none=True)
    return total


def denoising_batch(session: Session, examples: Sequence[Example], rng: torch.Generator) -> MicroBatch:
    """Noise pictures of one size, to be told apart again by the model (Ho et al. 2020, alg. 1)."""
    config, model = session.config, session.model
    latents = draw_latents(examples, rng) * model.vae.config.scaling_factor
    captions = [caption_for_step(example.caption, config, rng) for example in examples]
    noise = diffusion.sample_noise(latents, rng, config.noise_offset, config.multires_noise_discount)
    timesteps, weight = draw_timesteps(session, len(examples), rng)
    alphas_cumprod = model.scheduler.alphas_cumprod[timesteps]
    noisy_latents = diffusion.add_noise(latents, diffusion.perturbed(noise, config.ip_noise_gamma, rng), alphas_cumprod)
    target = diffusion.target(model.prediction_type, latents, noise, alphas_cumprod)
    text = session.prompts.text_inputs(captions, [example.frame for example in examples])
    huber_c = None
    if config.loss_type != "l2":
        count = len(model.scheduler.alphas_cumprod)
        huber_c = diffusion.huber_c(config.huber_schedule, config.huber_c, timesteps, alphas_cumprod, count)
    batch = MicroBatch(noisy_latents, timesteps, text, target, weight / len(examples), huber_c)
    return batch.to(session.compute.device)


def draw_timesteps(session: Session, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """`count` timesteps between the bounds of the settings, and the weight of each in the loss."""
    config, kind = session.config, session.model.prediction_type
    snr_T = diffusion.snr(session.model.scheduler.alphas_cumprod)
    if config.debiased_estimation_loss:
        weight_T = diffusion.debiased_weight(kind, snr_T)
    else:
        weight_T = diffusion.min_snr_weight(kind, snr_T, config.snr_gamma)
    weight_T = weight_T[config.min_timestep : config.max_timestep]
    timesteps, weight = diffusion.sample_timesteps(count, weight_T, config.timestep_sampling == "weighted", rng)
    return timesteps + config.min_timestep, weight


def loss_of(session: Session, batch: MicroBatch) -> Tensor:
    """The diffusion loss (Ho et al. 2020, eq. 14) of each picture, weighted; they sum up to that of the step."""
    conditioning = session.prompts.conditioning(batch.text_inputs)
    prediction = session.predict(batch.noisy_latents_BCHW, batch.timesteps_B, conditioning)
    if batch.huber_c_B is None:
        loss_BCHW = F.mse_loss(prediction, batch.target_BCHW, reduction="none")
    else:
        error = prediction - batch.target_BCHW
        loss_BCHW = diffusion.pseudo_huber(session.config.loss_type, error, batch.huber_c_B)
    return batch.weight_B / session.config.gradient_accumulation_steps * loss_BCHW.mean(dim=(1, 2, 3))


def draw_latents(examples: Sequence[Example], rng: torch.Generator) -> Tensor:
    """A draw from each picture's posterior, mirrored half of the time where both views are cached; BCHW, unscaled."""
    draws = []
    for example in examples:
        view = int(torch.randint(len(example.views), (1,), generator=rng))
        mean_CHW, std_CHW = example.views[view]
        draws.append(mean_CHW + std_CHW * torch.randn(mean_CHW.shape, generator=rng))
    return torch.stack(draws)
