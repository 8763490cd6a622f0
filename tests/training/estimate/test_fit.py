from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lora_core.config import TARGETS, TrainConfig
from lora_core.models import device as precision
from lora_core.models.architecture import of_family, of_model
from lora_core.models.device import Compute, Device
from lora_core.models.families import sdxl
from lora_core.training.estimate import fit as memory
from lora_core.training.estimate.fit import after_failure, fits
from lora_core.training.failures import explain

GIB = 2**30


def sdxl_model() -> Any:
    """The settings of a real SDXL; its weights are nowhere."""
    shapes = of_family("sdxl")
    encoders = {
        name: SimpleNamespace(config=SimpleNamespace(to_dict=lambda config=config: dict(config)))
        for name, config in shapes.text_encoders.items()
    }
    parts = {part: SimpleNamespace(config=getattr(shapes, part)) for part in ("unet", "vae")}
    return SimpleNamespace(**parts, text_encoders=encoders, family=sdxl.FAMILY)


def config(**values: object) -> TrainConfig:
    attention = ["to_q", "to_k", "to_v", "to_out.0"]
    return TrainConfig.of({"resolution": 1024, "target_modules": attention, "train_batch_size": 2, **values})


def test_a_card_that_is_too_small_is_told_with_the_smallest_that_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [Device("cuda:0", "huge", 80 * GIB), Device("cuda:1", "fitting", 24 * GIB), Device("cuda:2", "small", 12 * GIB)]
    monkeypatch.setattr(memory, "devices", lambda: [*cards, *precision.devices()])
    model = sdxl_model()
    assert of_model(model).unet_key() == of_family("sdxl").unet_key()

    def told(device: str, asked: TrainConfig) -> str:
        found = memory.notice(model, asked, Compute(torch.device(device), torch.float16, True))
        return str(found or "")

    found = fits(config(), of_model(model), cards[2])
    assert found and found.needed < 12 * GIB < found.whole < 24 * GIB
    about = f"This training needs about {found.whole / GIB:.1f} GB, more than small, 12 GB (cuda:2) has."
    done = (
        f" So half of the blocks are computed again instead of kept: {found.needed / GIB:.1f} GB, {found.longer:.0%} more "
        "arithmetic, the same LoRA."
    )
    assert told("cuda:2", config()) == f"{about}{done} fitting, 24 GB (cuda:1) can do it as it is: --device cuda:1."
    assert told("cuda:1", config()) == told("cuda:0", config()) == told("cpu", config()) == ""
    assert told("cuda:2", config(gradient_checkpointing=True)) == ""
    many = config(train_batch_size=16, gradient_checkpointing=True)
    assert told("cuda:2", many).endswith("has. fitting, 24 GB (cuda:1) can do it: --device cuda:1.")
    del cards[:2]
    assert told("cuda:2", config()) == about + done
    assert "--gradient_checkpointing --train_batch_size" not in told("cuda:2", many)
    assert "has. --train_batch_size 8 --gradient_accumulation_steps 2 makes it fit, with " in told("cuda:2", many)


def test_at_a_high_rank_the_optimizer_is_told_to_go_before_anything_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "devices", lambda: [Device("cuda:0", "small", 8 * GIB)])
    asked = config(lora_rank=128, train_batch_size=1, gradient_checkpointing=True, cuda_graphs=False)
    told = str(memory.notice(sdxl_model(), asked, Compute(torch.device("cuda:0"), torch.float16, True)))
    assert "has. --optimizer_on_host makes it fit, with " in told


def test_what_fits_nowhere_and_what_was_never_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Device("cuda:0", "old", 2 * GIB)
    monkeypatch.setattr(memory, "devices", lambda: [card])
    compute = Compute(torch.device("cuda:0"), torch.float16, True)
    told = str(memory.notice(sdxl_model(), config(), compute))
    assert "comes nearest, with" in told and "--resolution 512" in told and "--lora_rank 4" in told
    assert memory.notice(sdxl_model(), config(use_dora=True, target_modules=TARGETS), compute) is None


# --- after the memory was not enough ----------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["starter", "runwayml/stable-diffusion-v1-5", "never counted"])
def test_each_failure_leads_to_settings_that_can_be_started_with_until_none_is_left(base: str) -> None:
    config = TrainConfig.of({"train_batch_size": 3, "pretrained_model_name_or_path": base, "device": "cpu"})
    seen = []
    while changes := after_failure(config):
        seen.append(changes)
        config = config.replace(**changes)
        assert len(seen) < 30, "it ends"
    assert seen[0] == {"gradient_checkpointing": True}
    assert config.train_batch_size == 1 and config.gradient_accumulation_steps >= 3 and config.eight_bit_base
    assert config.resolution == 256
    assert "take a smaller base model" in explain(MemoryError(), config)


def test_after_a_failure_on_a_card_the_ladder_goes_on_where_the_training_stood(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run itself took the first steps unasked, and the plan's advice is the same ladder's."""
    card = Device("cuda:0", "a card", 16 * GIB)
    monkeypatch.setattr(memory, "devices", lambda: [card])
    monkeypatch.setattr(memory, "choose", lambda *asked: Compute(torch.device("cuda:0"), torch.float16, True))
    asked = config(pretrained_model_name_or_path="stabilityai/stable-diffusion-xl-base-1.0", train_batch_size=4)
    planned = fits(asked, of_family("sdxl"), card)
    assert planned and planned.changes and not planned.remedies, "it was to fit, with some blocks computed again"
    first = after_failure(asked)
    assert first["gradient_checkpointing"] is True and "checkpointed_quarters" not in first
    seen = []
    while changes := after_failure(asked):
        seen += changes
        asked = asked.replace(**changes)
    order = [name for name in dict.fromkeys(seen) if name not in ("gradient_accumulation_steps", "sample_count")]
    assert order == ["gradient_checkpointing", "train_batch_size", "optimizer_on_host", "eight_bit_base", "resolution",
                     "lora_rank"]  # fmt: skip
