"""lora_core.training.validate: the same numbers at every call."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_core.config import TrainConfig
from lora_core.models import load as base_models
from lora_core.models.families.base import whole_frame
from lora_core.training.data.latent_cache import Example, Prompts
from lora_core.training.data.validation import Measure, whole
from lora_core.training.engine import adapters
from lora_core.training.validate import validate

CPU = torch.device("cpu")


def examples(count: int, seed: int) -> list[Example]:
    rng = torch.Generator().manual_seed(seed)
    views = [((torch.randn(4, 8, 8, generator=rng), torch.ones(4, 8, 8)),) for _ in range(count)]
    return [Example(f"a zebu {number}", view, whole_frame(64, 64)) for number, view in enumerate(views)]


def test_the_score_moves_with_the_model_and_with_nothing_else(tiny_sd1: Path) -> None:
    model = base_models.load(str(tiny_sd1), torch.float32, lambda event: None)
    adapters.attach(model, TrainConfig.of({"lora_dropout": 0.5}))
    model.unet.train()
    prompts = Prompts(model, CPU, live=False)
    held_out, training = examples(2, 0), examples(5, 1)
    first = validate(model, prompts, held_out, training)
    torch.rand(100)
    assert validate(model, prompts, held_out, training) == first and model.unet.training
    assert first.loss != first.train_loss
    with torch.no_grad():
        for name, parameter in adapters.named_parameters(model).items():
            parameter.add_(0.3 if "lora_B" in name else 0)
    assert validate(model, prompts, held_out, training).loss != first.loss


def test_without_held_out_pictures_training_pictures_stand_in(tiny_sd1: Path) -> None:
    model = base_models.load(str(tiny_sd1), torch.float32, lambda event: None)
    score = validate(model, Prompts(model, CPU, live=False), [], examples(3, 1))
    assert score.loss == score.train_loss > 0


def test_fewer_timesteps_and_pictures_are_measured_where_so_much_is_asked(tiny_sd1: Path) -> None:
    model = base_models.load(str(tiny_sd1), torch.float32, lambda event: None)
    prompts, held_out, training = Prompts(model, CPU, live=False), examples(3, 0), examples(5, 1)
    asked: list[int] = []
    predict = model.family.predict

    def counted(unet: Any, noisy: torch.Tensor, *rest: Any) -> Any:
        asked.append(len(noisy))
        return predict(unet, noisy, *rest)

    object.__setattr__(model, "family", replace(model.family, predict=counted))
    score = validate(model, prompts, held_out, training, Measure(3, 2, 1))
    assert asked == [3, 3, 3] and validate(model, prompts, held_out, training, Measure(3, 2, 1)) == score
    asked.clear()
    smaller = validate(model, prompts, held_out, training, Measure(3, 2, 1), latents_at_once=64)
    assert asked == [1] * 9 and smaller.loss == pytest.approx(score.loss, rel=1e-5)
    assert validate(model, prompts, held_out, training, whole(3, 5)) == validate(model, prompts, held_out, training)
