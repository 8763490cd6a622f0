"""lora_core.training.engine.adapters: which layers learn, from where they start, and how fast."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lora_core.config import TARGETS, TrainConfig
from lora_core.errors import UserError
from lora_core.models import load as base_models
from lora_core.models.families.base import BaseModel
from lora_core.training.engine import adapters


@pytest.fixture
def model(tiny_sd1: Path) -> BaseModel:
    return base_models.load(str(tiny_sd1), torch.float16, lambda event: None)


def test_only_the_named_layers_learn_and_their_adapters_are_fp32(model: BaseModel) -> None:
    adapters.attach(model, TrainConfig.of({"lora_rank": 4}))
    parameters = adapters.named_parameters(model)
    assert {name.split(".")[-4] for name in parameters} == {"to_q", "to_v"}
    assert all(p.dtype == torch.float32 for p in parameters.values())
    frozen = [p for p in model.unet.parameters() if not p.requires_grad]
    assert frozen and all(p.dtype == torch.float16 for p in frozen)


def test_the_same_seed_gives_the_same_adapters(tiny_sd1: Path) -> None:
    def first_weights(seed: int) -> torch.Tensor:
        model = base_models.load(str(tiny_sd1), torch.float32, lambda event: None)
        torch.rand(seed + 3)  # whatever was drawn before must not matter
        adapters.attach(model, TrainConfig.of({"seed": seed}))
        return next(iter(adapters.named_parameters(model).values()))

    assert torch.equal(first_weights(1), first_weights(1)) and not torch.equal(first_weights(1), first_weights(2))


def test_parts_that_are_left_out_have_no_adapter_and_the_way_back_ends_before_them(tiny_sd1: Path) -> None:
    model = base_models.load(str(tiny_sd1), torch.float32, lambda event: None)
    adapters.attach(model, TrainConfig.of({"lora_rank": 4, "target_blocks": ["up", "mid"]}))
    assert {name.split(".")[1] for name in adapters.named_parameters(model)} == {"mid_block", "up_blocks"}
    needs: dict[str, bool] = {}
    for name in ("down_blocks", "up_blocks"):
        block = getattr(model.unet, name)[-1]
        block.register_forward_hook(lambda module, given, made, name=name: needs.update({name: _first(made).requires_grad}))
    channels, width = model.unet.config.in_channels, model.unet.config.cross_attention_dim
    model.unet(torch.randn(1, channels, 8, 8), torch.tensor([5]), torch.randn(1, 77, width))
    assert needs == {"down_blocks": False, "up_blocks": True}


def _first(made: object) -> torch.Tensor:
    found = made[0] if isinstance(made, tuple) else made
    assert isinstance(found, torch.Tensor)
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_names_layers_of_a_real_unet(target: str) -> None:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)  # SD 1.5's shape
    assert any(name.endswith(f".{target}") for name, _ in unet.named_modules())


def test_the_text_encoder_learns_at_its_own_rate(model: BaseModel) -> None:
    config = TrainConfig.of({"train_text_encoder": True, "text_encoder_lr": 5e-5, "learning_rate": 1e-4})
    adapters.attach(model, config)
    unet, text = adapters.parameter_groups(model, config)
    assert (unet["lr"], text["lr"]) == (1e-4, 5e-5)
    named = adapters.named_parameters(model)
    assert len(text["params"]) == sum(name.startswith("text_encoder.") for name in named) > 0


def test_a_model_without_the_layers_is_told(tiny_sd1: Path) -> None:
    model = base_models.load(str(tiny_sd1), torch.float32, lambda event: None)
    model.unet = torch.nn.Linear(2, 2)
    with pytest.raises((UserError, ValueError), match="to_q"):
        adapters.attach(model, TrainConfig.of({}))
