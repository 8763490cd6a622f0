"""lora_core.cli.plan_summary: the plan of a training as a terminal shows it."""

from __future__ import annotations

from pathlib import Path

import torch

from lora_core.cli import plan_summary
from lora_core.dataset import scan
from lora_core.models import device as precision
from lora_core.training.data.plan import Plan
from tests.support.training import config_for


def test_the_terminal_tells_the_plan_in_two_lines(pictures: Path, tmp_path: Path) -> None:
    config = config_for(
        "starter", pictures, tmp_path, target_modules=["to_q", "to_v"], max_train_steps=14, save_steps=7, sample_count=1
    )
    plan = Plan.of(config, scan(pictures))
    first, second = map(str, plan_summary.lines(config, plan, precision.choose("cpu", "no")))
    epochs = 14 / plan.batches_per_epoch
    assert first == f"7 pictures and 2 held out in 3 sizes; 14 steps, which are {epochs:.1f} epochs"
    assert second.startswith("needs ") and "MiB of memory" in second and "disk up to" in second
    card = precision.Compute(torch.device("cuda"), torch.float16, True, (), "a card")
    sd15 = config.replace(pretrained_model_name_or_path="runwayml/stable-diffusion-v1-5")
    _, real = map(str, plan_summary.lines(sd15, plan, card))
    assert "(fits cards from " in real and real.endswith("time known after the first steps")
