"""Prior preservation: what the LoRA must leave alone, the base model teaches by its own predictions.

DreamBooth (Ruiz et al. 2022) trains on pictures the base model drew. Here the base model's prediction on them, adapters
off, is the target instead of the noise: same minimum, but no gradient at all while the LoRA changes nothing, so it
holds the rest of the model still with far fewer pictures.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import torch
from torch import Tensor

from lora_core.config import TrainConfig
from lora_core.events import Emit, Phase
from lora_core.models.families.base import BaseModel, whole_frame
from lora_core.models.load import fingerprint
from lora_core.sampling.params import GenerationParams, cache_key_of
from lora_core.sampling.sample import draw_latents
from lora_core.training import diffusion
from lora_core.training.data.tensor_store import stored
from lora_core.training.engine import adapters
from lora_core.training.engine.stepper import MicroBatch
from lora_core.training.session import Prior, Session


def prior_params(config: TrainConfig) -> list[GenerationParams]:
    """`config.prior_pictures` pictures of the prior prompts in turn."""
    return [
        GenerationParams(
            config.prior_prompts[n % len(config.prior_prompts)], config.seed + n, config.resolution, config.resolution,
            steps=config.sample_inference_steps, guidance=config.sample_guidance,
        )
        for n in range(config.prior_pictures)
    ]  # fmt: skip


def draw_prior(model: BaseModel, config: TrainConfig, emit: Emit) -> list[Prior]:
    """What is to be left alone, drawn by the base model; from the cache where it is there."""
    wanted = prior_params(config)
    if not wanted:
        return []
    emit(Phase("prior", 0, len(wanted)))
    models = [fingerprint(model, "unet"), *(fingerprint(model, name) for name in model.text_encoders)]
    models += [asked for asked in (config.prediction_type, config.zero_terminal_snr) if asked != "auto"]
    if (read_as := (model.clip_skip, model.max_chunks)) != (1, 1):
        models.append(f"read as {read_as}")
    key = hashlib.sha256(f"({models}, {cache_key_of(wanted)})".encode()).hexdigest()

    def make() -> dict[str, Tensor]:
        batches = []
        for latents_BCHW in draw_latents(model, wanted):
            batches.append(latents_BCHW.float().cpu())
            emit(Phase("prior", sum(len(b) for b in batches), len(wanted)))
        return {"latents": torch.cat(batches)}

    latents_NCHW = stored(f"prior {key}", make, emit)["latents"]
    frame = whole_frame(config.resolution, config.resolution)
    return [Prior(params.prompt, latents, frame) for params, latents in zip(wanted, latents_NCHW, strict=True)]


def prior_batch(session: Session, count: int, rng: torch.Generator) -> MicroBatch:
    """`count` of the prior's pictures, to be answered with the adapters on as with them off.

    As it comes every `prior_every` steps only, it weighs that much more.
    """
    model, config, prompts = session.model, session.config, session.prompts
    chosen = [session.prior[i] for i in torch.randint(len(session.prior), (count,), generator=rng).tolist()]
    latents_BCHW = torch.stack([p.latents_CHW for p in chosen])
    timesteps_B = torch.randint(len(model.scheduler.alphas_cumprod), (count,), generator=rng)
    abar_B = model.scheduler.alphas_cumprod[timesteps_B]
    noisy_latents = diffusion.add_noise(latents_BCHW, diffusion.sample_noise(latents_BCHW, rng), abar_B)
    captions, frames = [p.prompt for p in chosen], [p.frame for p in chosen]
    weight_B = torch.full((count,), config.prior_every * config.prior_loss_weight / count)
    batch = MicroBatch(
        noisy_latents, timesteps_B, prompts.base(captions, frames), torch.empty_like(noisy_latents), weight_B
    ).to(session.compute.device)

    @torch.no_grad()
    def answer(part: MicroBatch) -> Tensor:
        return session.predict(part.noisy_latents_BCHW, part.timesteps_B, part.text_inputs)

    with adapters.disabled(model):
        target = session.stepper.forward(answer, batch)
    if not prompts.live:
        return replace(batch, target_BCHW=target)
    inputs = {name: rows.to(session.compute.device) for name, rows in prompts.text_inputs(captions, frames).items()}
    return replace(batch, target_BCHW=target, text_inputs=inputs)
