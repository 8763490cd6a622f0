"""lora_core.training.estimate.speed: what a run leaves of its speed, and what follows from it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lora_core.models import device as precision
from lora_core.models.architecture import shapes_of
from lora_core.training.estimate import speed


def test_a_run_leaves_its_speed_and_others_follow_by_arithmetic(ran: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config, plan, home = ran
    monkeypatch.setenv("TREINO_CACHE", str(home / "cache"))
    shapes, compute = shapes_of("starter"), precision.choose("cpu", "no")
    same = speed.step_seconds(config, shapes, compute, plan.buckets)
    twice = speed.step_seconds(config.replace(train_batch_size=4), shapes, compute, plan.buckets)
    assert same and same.measured and twice and not twice.measured and not twice.rough
    assert twice.seconds == pytest.approx(2 * same.seconds, rel=0.01)
    whole = speed.run_seconds(config, shapes, compute, plan)
    assert whole and whole.seconds > same.seconds * plan.steps
    card = precision.Compute(torch.device("cuda"), torch.float16, True, (), "a card")
    assert speed.step_seconds(config, shapes, card, plan.buckets) is None, "another device was never timed"
    speed.speeds_file().write_text("[]", encoding="utf-8")
    rough = speed.step_seconds(config, shapes, compute, plan.buckets)
    assert rough and rough.rough and rough.seconds > 0
    assert speed.cpu() == speed.cpu()
