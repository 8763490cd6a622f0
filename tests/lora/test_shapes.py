"""What shapes tell: the family, a toy's LoRA, and the layout of every layer."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from lora_core.lora.adapter import Adapter, LoraError
from lora_core.lora.shapes import check_fits, family_of, fit, is_toy
from tests.clients.models import FAMILIES
from tests.support.lora_values import random_lora, real_modules, small_lora


def _part(family: str, *words: str) -> dict[str, Adapter]:
    return random_lora({m: s for m, s in real_modules(family).items() if any(word in m for word in words)})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("words", [("attn2.to_k",), ("attn2.to_v",), ("layers.0.",), ("",)])
def test_the_family_by_widths(family: str, words: tuple[str, ...]) -> None:
    assert family_of(_part(family, *words)) == family


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("sd1", ("proj_in",)), ("sd1", ("attentions.0.proj_out",)), ("sd2", ("proj_in",)),
        ("sdxl", ("up_blocks.0.attentions",)), ("sdxl", ("transformer_blocks.9.attn1.to_q",)),
        ("sdxl", ("text_encoder_2",)),
        ("sd1", ("text_encoder", "down_blocks.0.attentions.0.proj_in")),
    ],
)  # fmt: skip
def test_the_family_by_its_blocks(family: str, words: tuple[str, ...]) -> None:
    lora = {m: a for m, a in _part(family, *words).items() if "attn2" not in m}
    assert family_of(lora) == family


@pytest.mark.parametrize(
    ("metadata", "family"),
    [
        ({"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"), ({"ss_v2": "True"}, "sd2"),
        ({"ss_base_model_version": "sd_v1"}, "sd1"), ({"modelspec.architecture": "stable-diffusion-v1/lora"}, "sd1"),
        ({"modelspec.architecture": "stable-diffusion-v2-768-v/lora"}, "sd2"),
        ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "sdxl"),
    ],
)  # fmt: skip
def test_where_nothing_else_tells_the_metadata_do(metadata: dict[str, str], family: str) -> None:
    same_everywhere = _part("sd1", "down_blocks.1.resnets.0.conv2")
    assert family_of(same_everywhere, metadata) == family
    with pytest.raises(LoraError, match="--family"):
        family_of(same_everywhere)


def test_shapes_win_over_metadata() -> None:
    assert family_of(small_lora("sd1"), {"ss_base_model_version": "sdxl_base_v1-0"}) == "sd1"


def test_a_width_of_no_family_is_told() -> None:
    lora = random_lora({"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k": (1280, 4096)})
    with pytest.raises(LoraError, match="4096"):
        family_of(lora)
    mixed = {**lora, **_part("sd1", "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k")}
    with pytest.raises(LoraError, match="no Stable Diffusion"):
        family_of(mixed)


def test_the_starter_is_sd1_and_a_toy() -> None:
    starter = random_lora({"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v": (112, 96)})
    text_only = random_lora({"text_encoder.text_model.encoder.layers.0.self_attn.q_proj": (96, 96)})
    for lora in (starter, text_only):
        assert family_of(lora) == "sd1"
        assert is_toy(lora)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_real_layer_looks_like_a_toy(family: str) -> None:
    assert not any(shape[0] % 64 for shape in real_modules(family).values())
    assert not is_toy(small_lora(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_fits_stays_as_it_is(family: str) -> None:
    lora = small_lora(family)
    fitted = fit(lora, family)
    assert all(fitted[m].down is lora[m].down and fitted[m].up is lora[m].up for m in lora)


@pytest.mark.parametrize(
    ("module", "down", "up", "words"),
    [
        ("unet.mid_block.resnets.0.conv1", (2, 8), (8, 2), "3x3 convolution"),
        ("unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q", (2, 8, 3, 3), (8, 2, 1, 1), "linear layer"),
        ("unet.mid_block.attentions.0.proj_in", (2, 8), (8, 3), "do not fit each other"),
        ("unet.mid_block.attentions.0.proj_in", (0, 8), (8, 0), "do not fit each other"),
    ],
)
def test_what_cannot_fit_is_told(module: str, down: tuple[int, ...], up: tuple[int, ...], words: str) -> None:
    with pytest.raises(LoraError, match=words):
        fit({module: Adapter(torch.ones(down), torch.ones(up), 1.0)}, "sd1")


def test_dora_scales_follow_the_layout() -> None:
    module = "unet.mid_block.attentions.0.proj_in"
    adapter = Adapter(torch.ones(2, 8), torch.ones(6, 2), 2.0, torch.ones(1, 8))
    fitted = fit({module: adapter}, "sd1")[module]
    assert fitted.dora_scale is not None
    assert fitted.dora_scale.shape == (1, 8, 1, 1)
    with pytest.raises(LoraError, match="dora_scale"):
        fit({module: dataclasses.replace(adapter, dora_scale=torch.ones(1, 5))}, "sd1")


def test_other_sizes_than_the_base_models_are_told() -> None:
    lora = small_lora()
    shapes = {module: real_modules("sd1")[module] for module in lora}
    check_fits(lora, shapes)
    first = next(iter(lora))
    with pytest.raises(LoraError, match="in the base model"):
        check_fits(lora, {**shapes, first: (1, *shapes[first][1:])})
