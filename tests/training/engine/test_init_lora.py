"""lora_core.training.engine.init_lora: what a LoRA has learned, in the adapters of a new training, on every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import save_file

from lora_core.config import TrainConfig
from lora_core.errors import UserError
from lora_core.lora.adapter import Lora
from lora_core.lora.adapter_settings import settings_to_go_on
from lora_core.lora.file import read, write
from lora_core.lora.metadata import TrainingMetadata, build
from lora_core.lora.peft_layers import base_shapes
from lora_core.messages import Message
from lora_core.models import load as base_models
from lora_core.models.families.base import BaseModel
from lora_core.sampling.pipeline import Pipeline
from lora_core.training.engine import adapters, init_lora
from tests.support.lora_values import random_lora
from tests.support.twins import save_twin

UNET = ("to_q", "to_v", "conv1", "proj_in")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    made: dict[str, str] = {"starter": "starter"}

    def model(family: str) -> str:
        if family not in made:
            made[family] = str(save_twin(family, tmp_path_factory.mktemp(family)))
        return made[family]

    return model


def opened(name: str) -> BaseModel:
    return base_models.load(name, torch.float32, lambda event: None)


def written(
    model: BaseModel, path: Path, dtype: str = "fp16", dora: bool = False, alpha: float = 3.0, **about: object
) -> Path:
    """A LoRA of rank 2 on some layers of every part."""
    shapes: dict[str, tuple[int, ...]] = {}
    for component, part in model.adapted().items():
        kinds = UNET if component == "unet" else model.family.text_targets
        shapes |= {m: s for m, s in base_shapes(part, component).items() if m.endswith(tuple(f".{k}" for k in kinds))}
    lora: Lora = random_lora(shapes, alpha=alpha, dora=dora)
    known = {"output_name": "old", "family": model.family.name, "rank": 2, "alpha": 3.0, "resolution": 64}
    known["prediction_type"] = model.prediction_type
    metadata = build(TrainingMetadata(**{**known, **about}))  # type: ignore[arg-type]
    write(path, lora, model.family.name, metadata, dtype)
    return path


def begun(name: str, file: Path, **values: object) -> tuple[BaseModel, Message | None]:
    """The model as a training has it before its first step."""
    config = TrainConfig.of({**settings_to_go_on(file), **values})
    model = opened(name)
    init = init_lora.read_for(model, file)
    adapters.attach(model, config)
    return model, init_lora.put_on(model, init, config)


@torch.no_grad()
def answer(model: BaseModel) -> torch.Tensor:
    """A prediction through text encoders and UNet."""
    generator = torch.Generator().manual_seed(5)
    tokens = model.family.tokenize(model, ["a zebu"])
    conditioning = model.family.encode_text(model, tokens)
    frames = torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]])
    side = model.unet.config.sample_size
    noisy = torch.randn(1, model.unet.config.in_channels, side, side, generator=generator)
    return model.predict(noisy, torch.tensor([500]), {**conditioning, "frames": frames})


def as_the_test_tab_loads_it(name: str, file: Path) -> torch.Tensor:
    pipeline = Pipeline("cpu")
    pipeline.open(name, lambda event: None)
    model = cast(BaseModel, pipeline._model)
    pipeline._load_lora(model, file)
    return answer(model)


@pytest.mark.parametrize("family", ["starter", "sd1", "sd2", "sdxl"])
def test_a_training_begins_bit_for_bit_where_the_file_is(
    family: str, models: Callable[[str], str], tmp_path: Path
) -> None:
    name = models(family)
    # Twice is exact; three halves are rounded, before the second matrix in a training and after it in a pipeline.
    file = written(opened(name), tmp_path / "old.safetensors", alpha=4.0)
    model, told = begun(name, file)
    assert told is None
    with adapters.disabled(model):
        base = answer(model)
    assert torch.equal(answer(model), as_the_test_tab_loads_it(name, file)) and not torch.equal(answer(model), base)
    odd = written(opened(name), tmp_path / "odd.safetensors", alpha=3.0)
    mine, its = adapters.extract(begun(name, odd)[0]), read(odd)[0]
    assert mine.keys() == its.keys() and all(mine[module].alpha == 3 for module in mine)
    assert all(torch.equal(mine[m].down, its[m].down.float()) and torch.equal(mine[m].up, its[m].up.float()) for m in mine)


def test_a_dora_goes_on_as_one_and_a_plain_lora_becomes_one_that_says_the_same(
    models: Callable[[str], str], tmp_path: Path
) -> None:
    name = models("sd1")
    dora = written(opened(name), tmp_path / "dora.safetensors", dora=True)
    assert settings_to_go_on(dora)["adapter"] == "dora"
    assert torch.equal(answer(begun(name, dora)[0]), as_the_test_tab_loads_it(name, dora))
    plain = written(opened(name), tmp_path / "plain.safetensors")
    model, told = begun(name, plain, adapter="dora")
    assert told is None
    torch.testing.assert_close(answer(model), as_the_test_tab_loads_it(name, plain), rtol=1e-4, atol=1e-4)


def test_another_rank_keeps_what_it_can_and_tells_what_it_cannot(models: Callable[[str], str], tmp_path: Path) -> None:
    name = models("sd1")
    file = written(opened(name), tmp_path / "old.safetensors")
    larger, told = begun(name, file, lora_rank=5, lora_alpha=2.0, conv_rank=4)
    assert told is None
    whole = as_the_test_tab_loads_it(name, file)
    torch.testing.assert_close(answer(larger), whole, rtol=1e-4, atol=1e-4)
    smaller, told = begun(name, file, lora_rank=1, train_text_encoder=False)
    assert told is not None and told.key == "training.init_lost"
    params = dict(told.params)
    mine, its = adapters.extract(smaller), read(file)[0]
    assert dict(cast(Message, params["left"]).params) == {"count": len(its) - len(mine)}
    square = {"lost": 0.0, "whole": 0.0}
    for module, value in its.items():
        change = value.scale * value.up.float().flatten(1) @ value.down.float().flatten(1)
        now = mine.get(module)
        rest = change - now.scale * now.up.flatten(1) @ now.down.flatten(1) if now else change
        square["lost"] += float(rest.square().sum())
        square["whole"] += float(change.square().sum())
    assert params["error"] == pytest.approx((square["lost"] / square["whole"]) ** 0.5, rel=1e-4)


def test_a_dora_becomes_the_nearest_plain_lora(tmp_path: Path) -> None:
    name = "starter"
    file = written(opened(name), tmp_path / "dora.safetensors", dora=True)
    model, told = begun(name, file, adapter="lora", lora_rank=256)
    whole = as_the_test_tab_loads_it(name, file)
    torch.testing.assert_close(answer(model), whole, rtol=1e-3, atol=1e-3)
    assert told is None
    _, told = begun(name, file, adapter="lora")
    assert told is not None and 0.1 < cast(float, dict(told.params)["error"]) < 1


def test_peft_names_are_read_with_the_alpha_beside_them(models: Callable[[str], str], tmp_path: Path) -> None:
    name = models("sd1")
    model, _ = begun(name, written(opened(name), tmp_path / "old.safetensors", "fp32"))
    state = {f"unet.{key}": value for key, value in get_peft_model_state_dict(model.unet).items()}
    save_file(state, tmp_path / "peft.safetensors", {"lora_adapter_metadata": '{"unet.lora_alpha": 3}'})
    again, told = begun(name, tmp_path / "peft.safetensors")
    assert told is None
    now, then = adapters.extract(again), adapters.extract(model)
    assert now and all(torch.equal(now[module].up, then[module].up) and now[module].alpha == 3 for module in now)


def test_a_lora_of_another_model_is_refused(models: Callable[[str], str], tmp_path: Path) -> None:
    file = written(opened(models("sdxl")), tmp_path / "xl.safetensors")
    with pytest.raises(UserError, match=r"xl.safetensors is a LoRA for Stable Diffusion XL, but .* a Stable Diffusion 1"):
        init_lora.read_for(opened(models("sd1")), file)
    with pytest.raises(UserError, match=r"old.safetensors does not fit starter: "):
        init_lora.read_for(opened("starter"), written(opened(models("sd1")), tmp_path / "old.safetensors"))
    other = written(opened(models("sd2")), tmp_path / "noise.safetensors", prediction_type="epsilon")
    with pytest.raises(UserError, match=r"predicts noise \(epsilon\), but .* predicts velocity"):
        init_lora.read_for(opened(models("sd2")), other)
