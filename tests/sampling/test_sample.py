"""lora_core.sampling.sample: seeds, batches, and a model that is left as it was."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from lora_core.config import TrainConfig
from lora_core.models import load as base_models
from lora_core.models import vae_tiling
from lora_core.models.families.base import BaseModel
from lora_core.models.weights import load_to
from lora_core.sampling import sample
from lora_core.sampling.params import GenerationParams
from lora_core.training.engine import adapters
from tests.support.training import config_for


@pytest.fixture
def model(tiny_sd1: Path) -> BaseModel:
    return base_models.load(str(tiny_sd1), torch.float32, lambda event: None)


def wishes(*seeds: int) -> list[GenerationParams]:
    return [GenerationParams("a zebu", seed, 64, 48, steps=3, guidance=3.0) for seed in seeds]


def test_a_seed_gives_its_picture_whoever_shares_the_batch(model: BaseModel) -> None:
    alone = sample.draw(model, wishes(7))[0]
    _, beside = sample.draw(model, wishes(1, 7))
    assert alone.size == (64, 48)
    assert np.abs(np.asarray(alone, float) - np.asarray(beside, float)).max() <= 1


def test_sampling_leaves_the_model_as_it_was(model: BaseModel) -> None:
    adapters.attach(model, TrainConfig.of({"lora_rank": 2, "lora_dropout": 0.5}))
    model.unet.train()
    before = {name: tensor.clone() for name, tensor in model.unet.state_dict().items()}
    first, second = sample.draw(model, wishes(3))[0], sample.draw(model, wishes(3))[0]
    assert np.array_equal(np.asarray(first), np.asarray(second)), "dropout must be off while sampling"
    assert model.unet.training and all(p.grad is None for p in model.unet.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.unet.state_dict().items())


def test_sampling_can_be_cancelled_between_denoising_steps(model: BaseModel) -> None:
    class Enough(Exception):
        pass

    calls = []

    def after_step() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise Enough

    with pytest.raises(Enough):
        sample.draw(model, wishes(1), after_step)
    assert len(calls) == 2


def test_only_the_unet_is_there_while_it_denoises(tiny_sd1: Path) -> None:
    model = base_models.open_on_meta(str(tiny_sd1), torch.float32, lambda event: None)
    load_to(model.unet, "cpu")
    seen = []

    def look() -> None:
        seen.append(
            {name: next(part.parameters()).device.type for name, part in (*model.text_encoders.items(), ("vae", model.vae))}
        )

    sample.draw(model, wishes(1, 2), look)
    assert seen[0] == {"text_encoder": "meta", "vae": "meta"} and len(seen) >= 2


def test_prompts_that_were_encoded_need_no_text_encoder(tiny_sd1: Path) -> None:
    asked = [*wishes(1, 2), GenerationParams("a cat", 3, 64, 48, "a dog", steps=3, guidance=3.0)]
    wanted = sample.draw(base_models.load(str(tiny_sd1), torch.float32, lambda event: None), asked)
    model = base_models.open_on_meta(str(tiny_sd1), torch.float32, lambda event: None)
    sample.encode_prompts(model, asked, torch.device("cpu"))
    load_to(model.unet, "cpu")
    source = model.text_encoders["text_encoder"].source
    model.text_encoders["text_encoder"].source = dataclasses.replace(source, open=lambda: pytest.fail("it was read again"))
    for picture, other in zip(sample.draw(model, asked), wanted, strict=True):
        assert np.array_equal(np.asarray(picture), np.asarray(other))


def test_the_unet_steps_aside_where_there_is_no_room_to_decode(model: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """How much a card has left cannot be had without one; that it comes back, and draws the same, can."""
    wanted = np.asarray(sample.draw(model, wishes(1))[0])
    moved, asked = [], []
    move = model.unet.to
    monkeypatch.setattr(model.unet, "to", lambda where: (moved.append(str(where)), move(where))[1])
    monkeypatch.setattr(sample, "free_bytes", lambda device: asked.append(device) or 64 * 48 * sample.DECODED_BYTES - 1)
    found = np.asarray(sample.draw(model, wishes(1))[0])
    assert moved == ["cpu", "cpu"] and set(asked) == {torch.device("cpu")}
    assert np.array_equal(found, wanted)
    monkeypatch.setattr(sample, "free_bytes", lambda device: 64 * 48 * sample.DECODED_BYTES)
    sample.draw(model, wishes(1))
    assert len(moved) == 2, "there is room"


def test_what_the_unet_worked_in_is_given_back_before_decoding(model: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under Windows the decoder would be given slow system memory beside it."""
    order: list[str] = []
    decode, unet = model.vae.decode, model.unet.forward
    monkeypatch.setattr(model.vae, "decode", lambda z: (order.append("decode"), decode(z))[1])
    monkeypatch.setattr(model.unet, "forward", lambda *a, **k: (order.append("unet"), unet(*a, **k))[1])
    monkeypatch.setattr(sample, "free_device_memory", lambda: order.append("given back"))
    monkeypatch.setattr(sample, "free_bytes", lambda device: (order.append("looked"), float("inf"))[1])
    sample.draw(model, wishes(1))
    assert order[order.index("given back") - 1] == "unet" and "unet" not in order[order.index("given back") :]
    assert order[order.index("given back") + 1 :] == ["looked", "looked", "decode"]


def test_where_even_the_decoder_alone_has_no_room_it_works_on_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    model = base_models.load("starter", torch.float32, lambda event: None)
    asked = [GenerationParams("a red circle on a blue background", 7, 96, 64, steps=8, guidance=4.0)]
    whole = np.asarray(sample.draw(model, asked)[0], float)
    latents = []
    decode = model.vae.decoder.forward
    monkeypatch.setattr(model.vae.decoder, "forward", lambda z: (latents.append(tuple(z.shape[2:])), decode(z))[1])
    before = model.vae.tile_latent_min_size, model.vae.tile_sample_min_size
    monkeypatch.setattr(vae_tiling, "TILE", 8)
    monkeypatch.setattr(sample, "free_bytes", lambda device: 0)
    tiled = np.asarray(sample.draw(model, asked)[0], float)
    assert len(latents) > 1 and max(map(max, latents)) <= 8
    assert tiled.shape == whole.shape == (64, 96, 3)
    assert 0 < np.abs(tiled - whole).mean() < 12, "of 255: the same picture"
    assert not model.vae.use_tiling and (model.vae.tile_latent_min_size, model.vae.tile_sample_min_size) == before


def test_without_its_adapters_the_model_is_the_base_model(model: BaseModel, tmp_path: Path) -> None:
    base = np.asarray(sample.draw(model, wishes(5))[0], float)
    adapters.attach(model, config_for("tiny", tmp_path, tmp_path, adapter="dora", train_text_encoder=True))
    assert np.abs(np.asarray(sample.draw(model, wishes(5))[0], float) - base).max() <= 1, "a new adapter changes nothing"
    with torch.no_grad():
        for parameter in adapters.named_parameters(model).values():
            parameter.add_(torch.randn_like(parameter))
    assert np.abs(np.asarray(sample.draw(model, wishes(5))[0], float) - base).max() > 5
    with adapters.disabled(model):
        assert np.abs(np.asarray(sample.draw(model, wishes(5))[0], float) - base).max() <= 1


def test_pictures_of_several_sizes_and_steps_are_each_as_if_drawn_alone(model: BaseModel) -> None:
    square, wide = wishes(1)[0], dataclasses.replace(wishes(2)[0], width=96, steps=2, guidance=1.0, negative_prompt="a cow")
    mixed = [square, wide, dataclasses.replace(square, seed=3)]
    drawn = sample.draw(model, mixed)
    assert [picture.size for picture in drawn] == [(64, 48), (96, 48), (64, 48)]
    for params, picture in zip(mixed, drawn, strict=True):
        assert np.array_equal(np.asarray(picture), np.asarray(sample.draw(model, [params])[0]))
