"""lora_core.training.estimate.cost: one answer, as far as things are known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lora_core.config import TrainConfig
from lora_core.dataset import scan
from lora_core.models.architecture import shapes_of
from lora_core.models.device import Compute, Device
from lora_core.training.data.plan import Plan
from lora_core.training.estimate import fit
from lora_core.training.estimate.cost import Estimate, estimate
from lora_core.training.estimate.memory import memory

GIB = 2**30


@pytest.fixture
def config(pictures: Path) -> TrainConfig:
    return TrainConfig.of({"pretrained_model_name_or_path": "starter", "train_data_dir": str(pictures), "device": "cpu",
                           "target_modules": ["to_q", "to_v"], "mixed_precision": "no"})  # fmt: skip


def test_with_its_plan_a_training_is_known_whole_and_without_it_as_far_as_squares_tell(
    config: TrainConfig, pictures: Path
) -> None:
    plan = Plan.of(config, scan(pictures))
    whole, squares = estimate(config, plan), estimate(config)
    assert whole.memory == memory(config, shapes_of("starter"), plan.buckets, 4) and whole.certain
    assert whole.fit and whole.fit.fits and whole.memory and whole.fit.needed > whole.memory.total
    assert whole.disk and whole.disk.run > 0 and whole.disk.cache > 0 and whole.time and whole.time.seconds > 0
    assert [level.name for level in whole.levels if level.is_now] == ["lean"]
    assert squares.memory == memory(config, shapes_of("starter"), (), 4)
    assert squares.disk is None and squares.levels == () and squares.time


def test_of_a_card_the_training_is_known_as_it_would_run(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    card = Compute(torch.device("cuda:0"), torch.float16, True)
    sdxl = config.replace(
        pretrained_model_name_or_path="stabilityai/stable-diffusion-xl-base-1.0", resolution=1024, mixed_precision="fp16"
    )
    elsewhere = estimate(sdxl, compute=card)
    assert elsewhere.memory and elsewhere.fit is None and elsewhere.time is None, "there is no such card here"
    monkeypatch.setattr(fit, "devices", lambda: [Device("cuda:0", "a card", 8 * GIB)])
    found = estimate(sdxl, compute=card)
    assert found.fit and found.fit.fits and found.fit.changes
    assert found.memory == memory(sdxl.replace(**found.fit.changes), shapes_of(sdxl.pretrained_model_name_or_path))
    assert found.memory.total < elsewhere.memory.total


def test_a_base_model_that_is_not_there_costs_nothing_that_is_known(config: TrainConfig) -> None:
    assert estimate(config.replace(pretrained_model_name_or_path="none")) == Estimate(is_base_known=False)
