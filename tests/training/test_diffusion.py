"""lora_core.training.diffusion: noising, targets and weights against the papers."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDPMScheduler

from lora_core.training import diffusion

SCHEDULER = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
TIMESTEPS = torch.tensor([0, 10, 500, 999])
ABAR = SCHEDULER.alphas_cumprod[TIMESTEPS]


def test_noising_and_velocity_agree_with_the_library() -> None:
    latents, noise = torch.randn(4, 3, 5, 6), torch.randn(4, 3, 5, 6)
    torch.testing.assert_close(diffusion.add_noise(latents, noise, ABAR), SCHEDULER.add_noise(latents, noise, TIMESTEPS))
    velocity = diffusion.target("v_prediction", latents, noise, ABAR)
    torch.testing.assert_close(velocity, SCHEDULER.get_velocity(latents, noise, TIMESTEPS))
    assert diffusion.target("epsilon", latents, noise, ABAR) is noise


def test_an_unknown_target_is_named() -> None:
    with pytest.raises(ValueError, match="'sample'"):
        diffusion.target("sample", torch.zeros(1), torch.zeros(1), torch.ones(1))


def test_min_snr_weights_follow_the_paper() -> None:
    snr = diffusion.snr(ABAR)
    epsilon = diffusion.min_snr_weight("epsilon", snr, 5.0)
    assert epsilon[0] == pytest.approx(5 / float(snr[0])) and epsilon[3] == 1
    velocity = diffusion.min_snr_weight("v_prediction", snr, 5.0)
    torch.testing.assert_close(velocity, snr.clamp(max=5) / (snr + 1))
    assert bool((diffusion.min_snr_weight("epsilon", snr, 0) == 1).all())


def test_min_snr_trains_the_timestep_of_pure_noise() -> None:
    """Written with alpha and sigma: on x, an error of v weighs 1 / sigma^2, and that is bounded by gamma."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha = torch.cumprod(1 - betas, dim=0).sqrt()
    alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])  # Lin et al. 2023, algorithm 1
    sigma_squared = 1 - alpha**2
    snr = diffusion.snr(alpha**2)
    for gamma in (1.0, 5.0, 20.0):
        weight = diffusion.min_snr_weight("v_prediction", snr, gamma)
        torch.testing.assert_close(weight, (1 / sigma_squared).clamp(max=gamma) * sigma_squared)
        assert weight[-1] == 1 and weight[1:].ge(weight[:-1]).all(), "no noisier timestep weighs less"
    weight = diffusion.min_snr_weight("v_prediction", snr, 5.0)
    drawn, _ = diffusion.sample_timesteps(20_000, weight, True, diffusion.generator(0))
    share = float((drawn >= 990).double().mean())
    assert share == pytest.approx(10 / float(weight.sum()), rel=0.25), "and none is drawn less"
    near = diffusion.min_snr_weight("v_prediction", snr[:-1], 5.0)
    torch.testing.assert_close(near, snr[:-1].clamp(max=5) / (snr[:-1] + 1))


def test_randomness_is_a_function_of_seed_and_position() -> None:
    def numbers(*position: int) -> list[float]:
        return torch.randn(8, generator=diffusion.generator(*position)).tolist()

    assert numbers(7, 100, 0) == numbers(7, 100, 0)
    distinct = {tuple(numbers(seed, step, micro)) for seed in range(4) for step in range(8) for micro in range(3)}
    assert len(distinct) == 4 * 8 * 3


def test_noise_offset_shifts_whole_channels() -> None:
    noise = diffusion.sample_noise(torch.zeros(2, 3, 64, 64), diffusion.generator(1), offset=1.0)
    assert noise.mean(dim=(2, 3)).std() > 0.3
    plain = diffusion.sample_noise(torch.zeros(2, 3, 64, 64), diffusion.generator(1))
    assert plain.mean(dim=(2, 3)).std() < 0.1


def test_every_timestep_is_drawn_as_often_as_it_should_be() -> None:
    ones, ramp = torch.ones(1000), torch.linspace(0, 2, 1000)
    even, weight = diffusion.sample_timesteps(4000, ones, False, diffusion.generator(1))
    assert torch.histc(even.double(), 10, 0, 1000).sub(400).abs().max() < 80 and bool((weight == 1).all())
    rising, weight = diffusion.sample_timesteps(4000, ramp, True, diffusion.generator(1))
    assert torch.histc(rising.double(), 4, 0, 1000).sub(torch.tensor([250, 750, 1250, 1750])).abs().max() < 120
    assert bool((weight == ramp.mean()).all())


def test_drawing_by_weight_has_the_same_mean_and_less_noise() -> None:
    """A loss that falls with the timestep, weighed by min-SNR and drawn by it."""
    weight_T = diffusion.min_snr_weight("epsilon", diffusion.snr(SCHEDULER.alphas_cumprod), 1.0)
    loss_T = torch.linspace(1, 0.1, 1000)

    def draws(by_weight: bool) -> torch.Tensor:
        found = (diffusion.sample_timesteps(1, weight_T, by_weight, diffusion.generator(s)) for s in range(4000))
        return torch.tensor([float(weight * loss_T[t]) for t, weight in found])

    weighed, drawn = draws(False), draws(True)
    exact = float((weight_T * loss_T).mean())
    assert float(weighed.mean()) == pytest.approx(exact, rel=0.05)
    assert float(drawn.mean()) == pytest.approx(exact, rel=0.02)
    assert drawn.std() < 0.9 * weighed.std()


def test_multires_noise_is_coarser_and_of_deviation_one() -> None:
    def noise(multires: float) -> torch.Tensor:
        return diffusion.sample_noise(torch.zeros(4, 4, 64, 64), diffusion.generator(3), multires=multires)

    rough = noise(0.8)
    torch.testing.assert_close(rough.std(dim=(1, 2, 3)), torch.ones(4))
    blocks = torch.nn.functional.avg_pool2d(rough, 8).std()
    assert blocks > 1.5 * torch.nn.functional.avg_pool2d(noise(0), 8).std()
    assert torch.equal(rough, noise(0.8)) and not torch.equal(rough, noise(0.2))


def test_input_perturbation_noises_the_input_alone() -> None:
    noise = torch.randn(2, 4, 64, 64, generator=diffusion.generator(1))
    assert diffusion.perturbed(noise, 0, diffusion.generator(2)) is noise
    added = diffusion.perturbed(noise, 0.1, diffusion.generator(2)) - noise
    assert float(added.std()) == pytest.approx(0.1, rel=0.02)


def test_debiased_weights_are_those_of_sd_scripts() -> None:
    ratio = diffusion.snr(ABAR)
    torch.testing.assert_close(
        diffusion.debiased_weight("epsilon", ratio), 1 / torch.minimum(ratio, torch.tensor(1000.0)).sqrt()
    )
    torch.testing.assert_close(diffusion.debiased_weight("v_prediction", ratio), 1 / (ratio.clamp(max=1000) + 1))


@pytest.mark.parametrize("timestep", [0, 10, 500, 999])
def test_the_bound_of_huber_follows_its_schedule(timestep: int) -> None:
    """The scalar formulas of sd-scripts, written out: sigma is the noise over the signal."""
    abar = float(SCHEDULER.alphas_cumprod[timestep])
    sigma = math.sqrt((1 - abar) / abar)
    wanted = {
        "constant": 0.1, "exponential": math.exp(-(-math.log(0.1) / 1000) * timestep), "snr": 0.9 / (1 + sigma) ** 2 + 0.1,
    }  # fmt: skip
    for schedule, c in wanted.items():
        found = diffusion.huber_c(schedule, 0.1, torch.tensor([timestep]), torch.tensor([abar]), 1000)
        assert float(found) == pytest.approx(c, rel=1e-5)


def test_huber_is_square_for_small_errors_and_linear_for_large_ones() -> None:
    c, small, large = torch.tensor([0.5, 0.5]), torch.full((2, 1, 1, 1), 1e-2), torch.full((2, 1, 1, 1), 100.0)
    torch.testing.assert_close(diffusion.pseudo_huber("huber", small, c), small**2, rtol=1e-3, atol=0)
    torch.testing.assert_close(diffusion.pseudo_huber("huber", large, c), 2 * 0.5 * large, rtol=1e-2, atol=0)
    torch.testing.assert_close(diffusion.pseudo_huber("smooth_l1", large, c), 2 * large, rtol=1e-2, atol=0)
    torch.testing.assert_close(diffusion.pseudo_huber("smooth_l1", small, c), small**2 / 0.5, rtol=1e-3, atol=0)
