"""Which min-SNR weight leaves a model that begins at pure noise able to begin: v-prediction, zero terminal SNR.

    python -m tests.benchmarks.zero_snr [--seeds 3] [--pretrain 3000] [--steps 400]

The tiny twin's UNet learns latents of any brightness, then a LoRA learns dark ones, with each weighting. Told of each:
the loss at the last timestep above the least there can be (where there is only noise, the best answer is the mean), the
same over all timesteps without weights, and how far from the pictures' brightness samples are, in their deviations.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from lora_core.config import TrainConfig
from lora_core.models import load as base_models
from lora_core.models.families.base import BaseModel
from lora_core.sampling import samplers
from lora_core.training import diffusion
from lora_core.training.engine import adapters
from tests.support.tiny import tiny_model

GAMMA, BATCH, SIZE = 5.0, 16, (4, 8, 8)
BRIGHT, DARK = (0.0, 0.7), (-1.2, 0.1)  # mean and deviation of a picture's brightness
TEXTURE = 0.7  # deviation of what is in a picture beside its brightness
LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "conv1", "conv2")

Weighting = Callable[[Tensor], Tensor]
"""SNR of every timestep -> weight of every timestep."""


def published(snr_T: Tensor) -> Tensor:
    """Hang et al. 2023 for velocity, as sd-scripts and OneTrainer have it: nothing where there is no signal."""
    return snr_T.clamp(max=GAMMA) / (snr_T + 1)


def last_one(snr_T: Tensor) -> Tensor:
    """The published weight, and one where there is no signal, as some fine-tuning scripts have it."""
    return torch.where(snr_T == 0, 1.0, published(snr_T))


def floored(least: float) -> Weighting:
    return lambda snr_T: published(snr_T).clamp(min=least)


def shifted(snr_T: Tensor) -> Tensor:
    """Treino's, and that of diffusers' training scripts: one wherever the signal is weak."""
    return diffusion.min_snr_weight("v_prediction", snr_T, GAMMA)


WEIGHTINGS: dict[str, Weighting] = {
    "none": torch.ones_like, "published": published, "last timestep 1": last_one, "at least 0.05": floored(0.05),
    "at least 0.2": floored(0.2), "SNR + 1": shifted,
}  # fmt: skip


def pictures(count: int, brightness: tuple[float, float], rng: torch.Generator) -> Tensor:
    """Latents [count, 4, 8, 8]: a brightness each, and coarse and fine texture."""
    mean, deviation = brightness
    bright = mean + deviation * torch.randn((count, 1, 1, 1), generator=rng)
    coarse = F.interpolate(torch.randn((count, SIZE[0], 2, 2), generator=rng), SIZE[1:], mode="bilinear")
    texture = coarse + 0.5 * torch.randn((count, *SIZE), generator=rng)
    return bright + TEXTURE * (texture - texture.mean(dim=(1, 2, 3), keepdim=True))


def teach(
    model: BaseModel, steps: int, rate: float, brightness: tuple[float, float], weight_T: Tensor, by_weight: bool, seed: int
) -> None:  # fmt: skip
    """Train what of the UNet is trainable."""
    trained = [parameter for parameter in model.unet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    abar_T = model.scheduler.alphas_cumprod
    for step in range(steps):
        rng = diffusion.generator(seed, step)
        latents = pictures(BATCH, brightness, rng)
        noise = diffusion.sample_noise(latents, rng)
        timesteps, weight = diffusion.sample_timesteps(BATCH, weight_T, by_weight, rng)
        error = predict(model, diffusion.add_noise(latents, noise, abar_T[timesteps]), timesteps)
        error = error - diffusion.target("v_prediction", latents, noise, abar_T[timesteps])
        (weight * error.square().mean(dim=(1, 2, 3))).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()


def predict(model: BaseModel, noisy_BCHW: Tensor, timesteps_B: Tensor) -> Tensor:
    nothing = torch.zeros((len(noisy_BCHW), 1, model.unet.config.cross_attention_dim))
    return model.predict(noisy_BCHW, timesteps_B, {"encoder_hidden_states": nothing})


@torch.no_grad()
def measured(model: BaseModel) -> tuple[float, float, float]:
    """Excess of the loss at the last timestep, loss over all, and brightness of samples off by so many deviations."""
    abar_T, rng = model.scheduler.alphas_cumprod, torch.Generator().manual_seed(1)
    latents = pictures(512, DARK, rng)
    noise = torch.randn(latents.shape, generator=rng)
    last = torch.full((len(latents),), len(abar_T) - 1)
    excess = (predict(model, noise, last) + latents).square().mean() - latents.var(dim=0).mean()
    timesteps = torch.linspace(0, len(abar_T) - 1, len(latents)).long()
    noisy = diffusion.add_noise(latents, noise, abar_T[timesteps])
    wanted = diffusion.target("v_prediction", latents, noise, abar_T[timesteps])
    loss = (predict(model, noisy, timesteps) - wanted).square().mean()
    sampler = samplers.scheduler("DDIM", model.scheduler.config)
    sampler.set_timesteps(25)
    drawn = torch.randn((256, *SIZE), generator=rng)
    for t in sampler.timesteps:
        drawn = sampler.step(predict(model, drawn, t.expand(len(drawn))), t, drawn).prev_sample
    off = abs(drawn.mean() - DARK[0]) / DARK[1]
    return float(excess), float(loss), float(off)


def base_model(folder: Path, steps: int) -> None:
    """The tiny twin that knows pictures of any brightness: its UNet's weights as `unet.pt`."""
    model = opened(folder)
    model.unet.requires_grad_(True)
    teach(model, steps, 2e-3, BRIGHT, torch.ones_like(model.scheduler.alphas_cumprod), False, seed=0)
    torch.save(model.unet.state_dict(), folder / "unet.pt")


def opened(folder: Path) -> BaseModel:
    model = base_models.load(str(folder), torch.float32, lambda event: None, zero_terminal_snr="on")
    if (folder / "unet.pt").is_file():
        model.unet.load_state_dict(torch.load(folder / "unet.pt", weights_only=True))
    return model


def with_lora(folder: Path, steps: int, weighting: Weighting, by_weight: bool, seed: int) -> tuple[float, float, float]:
    """What is measured of a LoRA for dark pictures."""
    model = opened(folder)
    adapters.attach(model, TrainConfig(lora_rank=4, target_modules=LAYERS, seed=seed))
    weight_T = weighting(diffusion.snr(model.scheduler.alphas_cumprod))
    teach(model, steps, 1e-3, DARK, weight_T, by_weight, seed)
    return measured(model)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pretrain", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=400)
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as home:
        folder = tiny_model(Path(home) / "model", prediction_type="v_prediction")
        base_model(folder, asked.pretrain)
        print("| weight | timesteps | at the last | over all | brightness off by |\n|---|---|---|---|---|")
        untrained = measured(opened(folder))
        print("| base model | - | " + " | ".join(f"{value:.3f}" for value in untrained) + " |", flush=True)
        for by_weight, (name, weighting) in itertools.product((False, True), WEIGHTINGS.items()):
            found = [with_lora(folder, asked.steps, weighting, by_weight, seed) for seed in range(1, asked.seeds + 1)]
            means = [f"{sum(values) / len(values):.3f}" for values in zip(*found, strict=True)]
            spans = [f"{min(values):.3f} to {max(values):.3f}" for values in zip(*found, strict=True)]
            cells = " | ".join(f"{mean} ({span})" for mean, span in zip(means, spans, strict=True))
            print(f"| {name} | {'weighted' if by_weight else 'uniform'} | {cells} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
