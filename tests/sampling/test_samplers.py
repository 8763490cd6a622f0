"""lora_core.sampling.samplers: A1111's names and diffusers' schedulers."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler

from lora_core.models.families import components as parts
from lora_core.sampling import samplers

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}

# diffusers' own, on NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.mark.parametrize("name", samplers.NAMES)
def test_a_sampler_keeps_the_models_noise_schedule(name: str) -> None:
    model = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction")
    made = samplers.scheduler(name, model.config)
    assert made.config.prediction_type == "v_prediction" and made.config.beta_end == 0.012
    assert bool(getattr(made.config, "use_karras_sigmas", False)) == name.endswith("Karras")


@pytest.mark.parametrize("name", samplers.NAMES)
def test_a_picture_drawn_from_pure_noise_is_finite(name: str) -> None:
    """By a model that knows the answer, from where there is no signal."""
    model = parts.as_asked(
        DDIMScheduler(**BETAS, prediction_type="v_prediction", clip_sample=False), zero_terminal_snr="on"
    )
    sampler = samplers.scheduler(name, model.config)
    sampler.set_timesteps(20)
    wanted, rng = torch.full((1, 4, 8, 8), 0.7), torch.Generator().manual_seed(0)
    noise = torch.randn(wanted.shape, generator=rng)
    x = noise * sampler.init_noise_sigma
    for t in sampler.timesteps:
        abar = model.alphas_cumprod[t.long()]
        seen = sampler.scale_model_input(x, t)
        eps = (seen - abar.sqrt() * wanted) / (1 - abar).sqrt()
        x = sampler.step(abar.sqrt() * eps - (1 - abar).sqrt() * wanted, t, x).prev_sample
    assert torch.isfinite(x).all() and (x - wanted).abs().mean() < 0.15, x.mean()


def test_samplers_differ() -> None:
    made = {name: samplers.scheduler(name, DDIMScheduler().config) for name in samplers.NAMES}
    kinds = {name: (type(s), s.config.get("use_karras_sigmas"), s.config.get("algorithm_type")) for name, s in made.items()}
    assert len(set(kinds.values())) == len(samplers.NAMES)


def test_an_unknown_name_is_no_sampler() -> None:
    with pytest.raises(KeyError):
        samplers.scheduler("DPM fast", DDIMScheduler().config)
