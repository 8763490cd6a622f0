"""lora_core.training.prior: drawn once, and no pull until the adapters change something."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from lora_core.config import TrainConfig
from lora_core.events import Event, Phase
from lora_core.models import load as base_models
from lora_core.models.architecture import of_model
from lora_core.models.families.base import BaseModel
from lora_core.models.load import fingerprint
from lora_core.training import diffusion, prior
from lora_core.training.engine import adapters
from lora_core.training.prior import draw_prior, prior_batch
from lora_core.training.session import Prior, Session
from tests.benchmarks.counting.meta_session import session_of

CONFIG = TrainConfig.of(
    {"resolution": 64, "prior_prompts": ["a cow", "a goat"], "prior_pictures": 3, "sample_inference_steps": 2}
)


@pytest.fixture
def model(tiny_sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BaseModel:
    monkeypatch.setenv("TREINO_CACHE", str(tmp_path))
    return base_models.load(str(tiny_sd1), torch.float32, lambda event: None)


def loss_of(session: Session, drawn: list[Prior]) -> torch.Tensor:
    session.prior = drawn
    batch = prior_batch(session, 2, diffusion.generator(0))
    conditioning = session.prompts.conditioning(batch.text_inputs)
    prediction = session.predict(batch.noisy_latents_BCHW, batch.timesteps_B, conditioning)
    return torch.nn.functional.mse_loss(prediction, batch.target_BCHW)


def test_the_base_model_draws_the_prompts_in_turn_once(model: BaseModel) -> None:
    told: list[Event] = []
    first = draw_prior(model, CONFIG, told.append)
    assert [p.prompt for p in first] == ["a cow", "a goat", "a cow"]
    assert all(p.latents_CHW.shape == (4, 8, 8) for p in first)
    assert Phase("prior", 3, 3) in told
    told.clear()
    again = draw_prior(model, CONFIG, told.append)
    assert Phase("prior", 3, 3) not in told, "the second time they come from the cache"
    assert all(torch.equal(a.latents_CHW, b.latents_CHW) for a, b in zip(first, again, strict=True))


def test_a_base_model_that_is_told_to_predict_another_thing_draws_anew(
    model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[str] = []
    monkeypatch.setattr(prior, "stored", lambda key, make, emit: kept.append(key) or make())
    one = CONFIG.replace(prior_pictures=1)
    for config in (one, one.replace(prediction_type="v_prediction"), one.replace(zero_terminal_snr="on")):
        draw_prior(model, config, lambda event: None)
    assert len(set(kept)) == 3


def test_what_older_versions_drew_is_found(model: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text is that of version 3075548."""
    kept: list[str] = []
    monkeypatch.setattr(prior, "stored", lambda key, make, emit: kept.append(key) or make())
    draw_prior(model, CONFIG.replace(prior_pictures=1), lambda event: None)
    models = [fingerprint(model, name) for name in ("unet", *model.text_encoders)]
    drawn = "Wish(prompt='a cow', seed=42, width=64, height=64, negative_prompt='', steps=2, guidance=7.5, sampler='DDIM')"
    assert kept == ["prior " + hashlib.sha256(f"({models!r}, [{drawn}])".encode()).hexdigest()]


def test_nothing_pulls_until_the_adapters_change_something(model: BaseModel) -> None:
    drawn = draw_prior(model, CONFIG, lambda event: None)
    session = session_of(model, of_model(model), CONFIG, torch.float32, (8, 8), torch.device("cpu"))  # attaches
    assert loss_of(session, drawn).item() == 0
    parameters = adapters.named_parameters(model)
    with torch.no_grad():
        for name, parameter in parameters.items():
            if "lora_B" in name:
                parameter.add_(0.1)
    loss = loss_of(session, drawn)
    loss.backward()
    assert loss.item() > 0
    before = loss.item()
    with torch.no_grad():
        for parameter in parameters.values():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad / parameter.grad.norm().clamp(min=1e-9)
    assert loss_of(session, drawn).item() < before, "its gradient leads back to the base model"
