from __future__ import annotations

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

from lora_core.errors import UserError
from lora_core.models.families import components as parts

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def test_a_schedule_saved_for_another_sampler_is_the_same_schedule() -> None:
    saved = {"_class_name": "EulerDiscreteScheduler", "interpolation_type": "linear", **BETAS}
    schedule = parts.schedule(saved)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    torch.testing.assert_close(schedule.alphas_cumprod, torch.cumprod(1 - betas, dim=0))
    assert schedule.config.prediction_type == "epsilon" and schedule.config.timestep_spacing == "leading"
    assert schedule.config.clip_sample is False, "latents go beyond one"


def test_zero_terminal_snr_begins_at_the_end_and_needs_velocity() -> None:
    flags = {**BETAS, "rescale_betas_zero_snr": True}
    schedule = parts.as_asked(parts.schedule({**flags, "prediction_type": "v_prediction"}))
    assert schedule.alphas_cumprod[-1] == 0 and schedule.config.timestep_spacing == "trailing"
    with pytest.raises(UserError, match="zero terminal SNR"):
        parts.as_asked(parts.schedule(flags))


def test_settings_say_what_a_schedule_does_not() -> None:
    silent, marked = (
        {**BETAS, "prediction_type": "v_prediction", "rescale_betas_zero_snr": is_zero} for is_zero in (False, True)
    )
    own = parts.schedule(silent)
    assert parts.as_asked(own) is own and parts.as_asked(own, "v_prediction", "off") is own
    on, off = parts.as_asked(own, zero_terminal_snr="on"), parts.as_asked(parts.schedule(marked), zero_terminal_snr="off")
    betas = rescale_zero_terminal_snr(torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    torch.testing.assert_close(on.alphas_cumprod, torch.cumprod(1 - betas, dim=0))
    assert on.alphas_cumprod[-1] == 0 and on.config.timestep_spacing == "trailing"
    assert torch.equal(off.alphas_cumprod, own.alphas_cumprod) and off.config.timestep_spacing == "leading"
    noise = parts.schedule(BETAS)
    assert parts.as_asked(noise, "v_prediction", "on").alphas_cumprod[-1] == 0, "a merge that lost both marks"
    assert parts.as_asked(parts.schedule(marked), "epsilon", "off").config.prediction_type == "epsilon"
    with pytest.raises(UserError, match="zero_terminal_snr to off"):
        parts.as_asked(noise, zero_terminal_snr="on")


@pytest.mark.parametrize("kind", ["EDMDPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler"])
def test_schedules_of_another_kind_are_told(kind: str) -> None:
    with pytest.raises(UserError, match=kind):
        parts.schedule({"_class_name": kind})
