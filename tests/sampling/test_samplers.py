"""lora_core.sampling.samplers: A1111's names and diffusers' schedulers."""

from __future__ import annotations

import pytest
from diffusers import DDIMScheduler

from lora_core.sampling import samplers

# diffusers' own, on NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.mark.parametrize("name", samplers.NAMES)
def test_a_sampler_keeps_the_models_noise_schedule(name: str) -> None:
    model = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction")
    made = samplers.scheduler(name, model.config)
    assert made.config.prediction_type == "v_prediction" and made.config.beta_end == 0.012
    assert bool(getattr(made.config, "use_karras_sigmas", False)) == name.endswith("Karras")


def test_samplers_differ() -> None:
    made = {name: samplers.scheduler(name, DDIMScheduler().config) for name in samplers.NAMES}
    kinds = {name: (type(s), s.config.get("use_karras_sigmas"), s.config.get("algorithm_type")) for name, s in made.items()}
    assert len(set(kinds.values())) == len(samplers.NAMES)


def test_an_unknown_name_is_no_sampler() -> None:
    with pytest.raises(KeyError):
        samplers.scheduler("DPM fast", DDIMScheduler().config)
