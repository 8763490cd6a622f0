"""Adapters out of PEFT's layers and back: nothing is lost, and what does not fit is told before anything changes."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from lora_core.lora.adapter import LoraError
from lora_core.lora.dora import normalise_over_inputs
from lora_core.lora.peft_layers import base_shapes, from_peft, inject, load_into_peft
from lora_core.lora.shapes import check_fits
from tests.clients.models import TEXT_TARGETS, tiny_text_encoders
from tests.support.lora_values import equal


class Blocks(nn.Module):
    """A little UNet with names like the real one's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mid_block = nn.ModuleDict({"to_q": nn.Linear(6, 5), "conv1": nn.Conv2d(6, 7, 3, padding=1)})


def _adapted(**options: object) -> Blocks:
    model = Blocks()
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["to_q", "conv1"], init_lora_weights=False, **options)
    inject_adapter_in_model(config, model)
    return model


def test_values_are_copies_on_the_cpu_in_fp32() -> None:
    model = _adapted().to(torch.bfloat16)
    lora = from_peft(model, "unet")
    assert set(lora) == {"unet.mid_block.to_q", "unet.mid_block.conv1"}
    before = lora["unet.mid_block.to_q"].up.clone()
    assert before.dtype == torch.float32
    nn.init.zeros_(model.mid_block["to_q"].lora_B["default"].weight)
    assert torch.equal(lora["unet.mid_block.to_q"].up, before)


def test_the_scale_is_the_layers_own() -> None:
    assert from_peft(_adapted(), "unet")["unet.mid_block.to_q"].alpha == 6
    folded = from_peft(_adapted(use_rslora=True), "unet")["unet.mid_block.to_q"]
    assert folded.scale == pytest.approx(6 / math.sqrt(4))
    odd = from_peft(_adapted(alpha_pattern={"to_q": 5}), "unet")
    assert (odd["unet.mid_block.to_q"].alpha, odd["unet.mid_block.conv1"].alpha) == (5, 6)


def test_alpha_survives_the_fp32_of_the_file() -> None:
    model = Blocks()
    inject_adapter_in_model(LoraConfig(r=12, lora_alpha=16, use_rslora=True, target_modules=["to_q"]), model)
    alpha = from_peft(model, "unet")["unet.mid_block.to_q"].alpha
    assert float(torch.tensor(alpha)) == alpha


def test_peft_magnitudes_are_over_outputs_and_ours_over_inputs() -> None:
    model = _adapted(use_dora=True)
    scales = [adapter.dora_scale for adapter in from_peft(model, "unet").values()]
    assert [tuple(s.shape) for s in scales if s is not None] == [(5, 1), (7, 1, 1, 1)]
    normalise_over_inputs(model)
    scales = [adapter.dora_scale for adapter in from_peft(model, "unet").values()]
    assert [tuple(s.shape) for s in scales if s is not None] == [(1, 6), (1, 6, 1, 1)]


@pytest.mark.parametrize("component", ["text_encoder", "text_encoder_2"])
def test_text_encoders_always_have_text_model_in_front(component: str) -> None:
    encoder = tiny_text_encoders("sdxl")[component]
    inject_adapter_in_model(LoraConfig(r=2, target_modules=list(TEXT_TARGETS)), encoder)
    names = from_peft(encoder, component)
    assert len(names) == 12
    assert all(name.startswith(f"{component}.text_model.encoder.layers.") for name in names)


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"use_dora": True}], ids=str)
def test_loaded_back_is_the_same(options: dict[str, object]) -> None:
    lora = from_peft(_adapted(**options), "unet")
    fresh = Blocks()
    config = LoraConfig(r=4, target_modules=["to_q", "conv1"], use_dora="use_dora" in options)
    inject_adapter_in_model(config, fresh)
    load_into_peft(fresh, "unet", lora)
    assert equal(from_peft(fresh, "unet"), lora)


@pytest.mark.parametrize("over_inputs", [False, True])
def test_injected_into_a_bare_model_it_acts_the_same(over_inputs: bool) -> None:
    model = _adapted(use_dora=True)
    if over_inputs:
        normalise_over_inputs(model)
    lora = from_peft(model, "unet")
    bare, tokens = Blocks(), torch.randn(3, 6)
    inject(bare, "unet", {**lora, "text_encoder.text_model.encoder.layers.0.mlp.fc1": lora["unet.mid_block.to_q"]})
    assert equal(from_peft(bare, "unet"), lora)
    assert torch.equal(bare.mid_block["to_q"](tokens), model.mid_block["to_q"](tokens))


def test_injected_with_a_rank_and_strength_for_every_layer() -> None:
    lora = from_peft(_adapted(rank_pattern={"to_q": 2}, alpha_pattern={"conv1": 9}), "unet")
    bare = Blocks()
    inject(bare, "unet", lora)
    assert equal(from_peft(bare, "unet"), lora)


def test_injected_into_text_encoders_of_either_naming() -> None:
    for component, encoder in tiny_text_encoders("sdxl").items():
        inject_adapter_in_model(LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False), encoder)
        lora = from_peft(encoder, component)
        bare = tiny_text_encoders("sdxl")[component]
        inject(bare, component, lora)
        assert equal(from_peft(bare, component), lora)


def test_what_does_not_fit_changes_nothing() -> None:
    model = _adapted()
    before = from_peft(model, "unet")
    other_rank = {m: dataclasses.replace(a, down=a.down[:2], up=a.up[:, :2]) for m, a in before.items()}
    with pytest.raises(LoraError, match="in the LoRA"):
        load_into_peft(model, "unet", other_rank)
    with pytest.raises(LoraError, match="different layers"):
        load_into_peft(model, "unet", dict(list(before.items())[:1]))
    assert equal(from_peft(model, "unet"), before)


def test_a_bare_model_refuses_what_is_not_its_own() -> None:
    lora = from_peft(_adapted(), "unet")
    adapter = lora["unet.mid_block.to_q"]
    with pytest.raises(LoraError, match=r"no unet\.mid_block\.to_k"):
        inject(Blocks(), "unet", {"unet.mid_block.to_k": adapter})
    with pytest.raises(LoraError, match=r"\[5, 6\] in the base model"):
        inject(Blocks(), "unet", {"unet.mid_block.to_q": dataclasses.replace(adapter, up=adapter.up[:4])})
    mixed = {**lora, "unet.mid_block.to_q": dataclasses.replace(adapter, dora_scale=torch.ones(1, 6))}
    with pytest.raises(LoraError, match="several kinds"):
        inject(Blocks(), "unet", mixed)


def test_shapes_of_the_base_model_are_seen_through_adapters() -> None:
    shapes = {"unet.mid_block.to_q": (5, 6), "unet.mid_block.conv1": (7, 6, 3, 3)}
    model = _adapted()
    assert base_shapes(Blocks(), "unet") == base_shapes(model, "unet") == shapes
    check_fits(from_peft(model, "unet"), shapes)
    with pytest.raises(LoraError, match="another one"):
        check_fits(from_peft(model, "unet"), {})
