"""Noising, targets and loss weights of diffusion training, under the papers' names.

Shapes: B batch, C latent channels, H and W latent pixels. Everything here is fp32: in fp16, 1 - abar loses all its
digits at early timesteps.
"""

from __future__ import annotations

import torch
from torch import Tensor


def generator(seed: int, *position: int) -> torch.Generator:
    """A CPU generator that depends on the seed and the position only, so that a resumed run draws the same numbers."""
    state = seed & 0xFFFFFFFFFFFFFFFF
    for number in position:  # splitmix64: neighbouring positions give unrelated seeds
        state = (state + number * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return torch.Generator().manual_seed(state >> 1)


def sample_noise(like_BCHW: Tensor, rng: torch.Generator, offset: float = 0.0) -> Tensor:
    """Gaussian noise; `offset` adds a shared shift per picture and channel (Guttenberg 2023, noise offset)."""
    noise = torch.randn(like_BCHW.shape, generator=rng)
    if offset:
        noise += offset * torch.randn((*like_BCHW.shape[:2], 1, 1), generator=rng)
    return noise.to(like_BCHW.device)


def add_noise(latents_BCHW: Tensor, noise_BCHW: Tensor, alphas_cumprod_B: Tensor) -> Tensor:
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps (DDPM, Ho et al. 2020, eq. 4)."""
    abar = alphas_cumprod_B.view(-1, 1, 1, 1)
    return abar.sqrt() * latents_BCHW + (1 - abar).sqrt() * noise_BCHW


def target(prediction_type: str, latents_BCHW: Tensor, noise_BCHW: Tensor, alphas_cumprod_B: Tensor) -> Tensor:
    """What the model is to predict: eps, or v = sqrt(abar) eps - sqrt(1 - abar) x_0 (Salimans & Ho 2022).

    Raises:
        ValueError: a prediction type that is neither.
    """
    if prediction_type == "epsilon":
        return noise_BCHW
    if prediction_type == "v_prediction":
        abar = alphas_cumprod_B.view(-1, 1, 1, 1)
        return abar.sqrt() * noise_BCHW - (1 - abar).sqrt() * latents_BCHW
    raise ValueError(f"the base model predicts {prediction_type!r}; Treino trains epsilon and v_prediction models")


def snr(alphas_cumprod_B: Tensor) -> Tensor:
    """Signal-to-noise ratio abar / (1 - abar)."""
    return alphas_cumprod_B / (1 - alphas_cumprod_B)


def min_snr_weight(prediction_type: str, snr_B: Tensor, gamma: float) -> Tensor:
    """min(SNR, gamma) / SNR for eps, / (SNR + 1) for v (Hang et al. 2023); all ones when gamma is 0."""
    if not gamma:
        return torch.ones_like(snr_B)
    return snr_B.clamp(max=gamma) / (snr_B + 1 if prediction_type == "v_prediction" else snr_B)


def sample_timesteps(
    count: int, weight_T: Tensor, by_weight: bool, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """`count` timesteps and the weight of each in the loss, of a schedule whose timesteps weigh `weight_T`.

    by_weight: draw each as often as it weighs, all of the mean weight: the same expected gradient with less noise, for
    no picture is spent on a timestep that hardly counts.
    """
    if by_weight:
        timesteps = torch.multinomial(weight_T.double(), count, replacement=True, generator=rng)
        return timesteps, weight_T.mean().expand(count)
    timesteps = torch.randint(len(weight_T), (count,), generator=rng)
    return timesteps, weight_T[timesteps]
