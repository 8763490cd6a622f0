"""Noising, targets and loss weights of diffusion training, under the papers' names.

Shapes: B batch, C latent channels, H and W latent pixels. Everything here is fp32: in fp16, 1 - abar loses all its
digits at early timesteps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

OCTAVES = 6  # of multi-resolution noise, as in its article
MOST_SNR = 1000  # of the debiased weight: earlier timesteps would weigh next to nothing, as in sd-scripts


def generator(seed: int, *position: int) -> torch.Generator:
    """A CPU generator that depends on the seed and the position only, so that a resumed run draws the same numbers."""
    state = seed & 0xFFFFFFFFFFFFFFFF
    for number in position:  # splitmix64: neighbouring positions give unrelated seeds
        state = (state + number * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return torch.Generator().manual_seed(state >> 1)


def sample_noise(like_BCHW: Tensor, rng: torch.Generator, offset: float = 0.0, multires: float = 0.0) -> Tensor:
    """Gaussian noise; `offset` adds a shared shift per picture and channel (Guttenberg 2023, noise offset).

    multires: adds coarser and coarser noise, each this much weaker than the one before, and brings all of it back to a
    deviation of one (Whitaker 2023, multi-resolution noise).
    """
    noise = torch.randn(like_BCHW.shape, generator=rng)
    if offset:
        noise += offset * torch.randn((*like_BCHW.shape[:2], 1, 1), generator=rng)
    if multires:
        noise = _with_octaves(noise, rng, multires)
    return noise.to(like_BCHW.device)


def _with_octaves(noise_BCHW: Tensor, rng: torch.Generator, discount: float) -> Tensor:
    size = height, width = noise_BCHW.shape[2:]
    for octave in range(OCTAVES):  # the first is of the same size, as in sd-scripts
        shrink = float(2 + 2 * torch.rand((), generator=rng)) ** octave
        small = max(1, int(height / shrink)), max(1, int(width / shrink))
        coarse = torch.randn((*noise_BCHW.shape[:2], *small), generator=rng)
        noise_BCHW = noise_BCHW + discount**octave * F.interpolate(coarse, size, mode="bilinear")
        if 1 in small:
            break
    return noise_BCHW / noise_BCHW.std(dim=(1, 2, 3), keepdim=True)


def perturbed(noise_BCHW: Tensor, gamma: float, rng: torch.Generator) -> Tensor:
    """What the input is noised with where the target stays the noise: eps + gamma eps' (Ning et al. 2023, input
    perturbation, 0.1 there); the noise itself when gamma is 0."""
    if not gamma:
        return noise_BCHW
    return noise_BCHW + gamma * torch.randn(noise_BCHW.shape, generator=rng).to(noise_BCHW.device)


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


def min_snr_weight(prediction_type: str, snr_T: Tensor, gamma: float) -> Tensor:
    """min(SNR, gamma) / SNR for eps, / (SNR + 1) for v (Hang et al. 2023), of a whole schedule; all ones when gamma is 0.

    A schedule that ends in pure noise has min(SNR + 1, gamma) / (SNR + 1), the weight SNR + 1 of Salimans & Ho 2022 bounded
    likewise: by the other, nothing would train the step that sampling begins with (tests/benchmarks/zero_snr.py).
    """
    if not gamma:
        return torch.ones_like(snr_T)
    if prediction_type != "v_prediction":
        return snr_T.clamp(max=gamma) / snr_T
    begins_at_noise = bool(snr_T.min() == 0)
    return (snr_T + begins_at_noise).clamp(max=gamma) / (snr_T + 1)


def debiased_weight(prediction_type: str, snr_B: Tensor) -> Tensor:
    """1 / sqrt(SNR) for eps, 1 / (SNR + 1) for v (Yu et al. 2024, as sd-scripts weighs)."""
    snr_B = snr_B.clamp(max=MOST_SNR)
    return 1 / (snr_B + 1) if prediction_type == "v_prediction" else snr_B.rsqrt()


def huber_c(schedule: str, c: float, timesteps_B: Tensor, alphas_cumprod_B: Tensor, count: int) -> Tensor:
    """Where the pseudo-Huber loss turns from square to linear (Khrapov et al. 2024, section 4): c at every timestep
    (`constant`), falling from 1 to c over the `count` timesteps (`exponential`), or with the noise (`snr`)."""
    if schedule == "exponential":
        return torch.exp(math.log(c) * timesteps_B / count)
    if schedule == "snr":
        return (1 - c) / (1 + snr(alphas_cumprod_B).rsqrt()) ** 2 + c
    return torch.full_like(alphas_cumprod_B, c)


def pseudo_huber(loss_type: str, error_BCHW: Tensor, c_B: Tensor) -> Tensor:
    """2c (sqrt(x^2 + c^2) - c), near x^2 where x is small (`huber`), or without the c before it (`smooth_l1`)."""
    c = c_B.view(-1, 1, 1, 1)
    return 2 * (c if loss_type == "huber" else 1) * ((error_BCHW**2 + c**2).sqrt() - c)


def sample_timesteps(count: int, weight_T: Tensor, by_weight: bool, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """`count` timesteps and the weight of each in the loss, of a schedule whose timesteps weigh `weight_T`.

    by_weight: draw each as often as it weighs, all of the mean weight: the same expected gradient with less noise, for
    no picture is spent on a timestep that hardly counts.
    """
    if by_weight:
        timesteps = torch.multinomial(weight_T.double(), count, replacement=True, generator=rng)
        return timesteps, weight_T.mean().expand(count)
    timesteps = torch.randint(len(weight_T), (count,), generator=rng)
    return timesteps, weight_T[timesteps]
