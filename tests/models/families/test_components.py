from __future__ import annotations

import pytest
import torch

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
    schedule = parts.schedule({**flags, "prediction_type": "v_prediction"})
    assert schedule.alphas_cumprod[-1] == 0 and schedule.config.timestep_spacing == "trailing"
    with pytest.raises(UserError, match="zero terminal SNR"):
        parts.schedule(flags)


@pytest.mark.parametrize("kind", ["EDMDPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler"])
def test_schedules_of_another_kind_are_told(kind: str) -> None:
    with pytest.raises(UserError, match=kind):
        parts.schedule({"_class_name": kind})
