"""lora_core.sampling.pipeline: LoRA files drawn through diffusers, at any weight."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from lora_core.events import Event, Phase, Sample
from lora_core.lora import file as lora_file
from lora_core.lora.adapter import Adapter, Lora, LoraError
from lora_core.models import load as base_models
from lora_core.models.families.base import BaseModel
from lora_core.sampling import samplers
from lora_core.sampling.params import GenerationParams
from lora_core.sampling.pipeline import Pipeline
from lora_core.training.engine import adapters
from tests.support.lora_values import small_lora
from tests.support.training import config_for, run

EVERYWHERE = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "conv1"]
PARAMS = GenerationParams("a zebu", 7, 64, 64, steps=3, guidance=3.0)


def with_lora(params: GenerationParams, lora: Path | None = None, weight: float = 1.0) -> GenerationParams:
    return dataclasses.replace(params, lora=str(lora or ""), weight=weight)


def quiet(event: Event) -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def pipeline(tiny_sd1: Path) -> Pipeline:
    opened = Pipeline("cpu")
    opened.open(str(tiny_sd1), quiet)
    return opened


def strong(tiny_sd1: Path, seed: int, **values: object) -> Lora:
    """A LoRA of random values for the tiny model, strong enough to change every picture."""
    model: BaseModel = base_models.load(str(tiny_sd1), torch.float32, quiet)
    config = config_for(tiny_sd1, tiny_sd1, tiny_sd1, target_modules=EVERYWHERE, train_text_encoder=True, **values)
    adapters.attach(model, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapters.named_parameters(model).values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return adapters.extract(model)


@pytest.fixture(scope="module")
def loras(tiny_sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the LoRAs one, two (a folder with spaces and accents) and a DoRA."""
    folder = tmp_path_factory.mktemp("os meus LoRAs çã")
    lora_file.write(folder / "one.safetensors", strong(tiny_sd1, 1), "sd1", {}, "fp32")
    lora_file.write(folder / "two.safetensors", strong(tiny_sd1, 2), "sd1", {}, "fp32")
    lora_file.write(folder / "dora.safetensors", strong(tiny_sd1, 3, adapter="dora"), "sd1", {}, "fp32")
    return folder


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB"), float)


def difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(pixels(one) - pixels(other)).max())


def test_a_picture_is_the_preview_of_the_training(pictures: Path, tiny_sd1: Path, tmp_path: Path) -> None:
    config = config_for(
        tiny_sd1, pictures, tmp_path, max_train_steps=4, sample_count=2, learning_rate=0.05, train_text_encoder=True,
        target_modules=EVERYWHERE, save_precision="fp32", sample_prompts=["a zebu", "a blue star"], resolution=64,
    )  # fmt: skip
    _, events = run(config)
    shown = [event for event in events if isinstance(event, Sample)]
    assert {event.step for event in shown} == {0, 4}
    pipeline = Pipeline("cpu")
    pipeline.open(str(tiny_sd1), quiet)
    assert type(pipeline.pipeline) is StableDiffusionPipeline
    for event in shown:
        params = GenerationParams(
            event.prompt, event.seed, 64, 64, "", config.sample_inference_steps, config.sample_guidance
        )
        drawn = pipeline.draw(with_lora(params, tmp_path / "pytorch_lora_weights.safetensors", 1.0 if event.step else 0.0))
        assert difference(drawn, Image.open(tmp_path / event.path)) <= 1, event
    base, last = (Image.open(tmp_path / next(e for e in shown if e.step == step).path) for step in (0, 4))
    assert difference(base, last) > 5, "the LoRA must show, or this proves nothing"


@pytest.mark.parametrize("name", ["one", "dora"])
def test_weight_zero_is_the_base_model_and_weights_lie_between(pipeline: Pipeline, loras: Path, name: str) -> None:
    base = pipeline.draw(with_lora(PARAMS))
    path = loras / f"{name}.safetensors"
    full, half, none = (pipeline.draw(with_lora(PARAMS, path, weight)) for weight in (1.0, 0.5, 0.0))
    assert difference(base, none) == 0 and difference(base, pipeline.draw(with_lora(PARAMS))) == 0
    assert difference(base, full) > 5 and difference(full, half) > 2 and difference(base, half) > 2
    assert difference(pipeline.draw(with_lora(PARAMS, path, 1.0)), full) == 0


def test_a_dora_draws_as_while_training(pipeline: Pipeline, tiny_sd1: Path, loras: Path) -> None:
    from lora_core.lora.peft_layers import inject
    from lora_core.sampling import sample

    model = base_models.load(str(tiny_sd1), torch.float32, quiet)
    values, _ = lora_file.read(loras / "dora.safetensors")
    for component, module in model.adapted().items():
        inject(module, component, values)
    assert difference(sample.draw(model, [PARAMS])[0], pipeline.draw(with_lora(PARAMS, loras / "dora.safetensors"))) <= 1


def test_a_lora_resized_layer_by_layer_draws_the_same(pipeline: Pipeline, loras: Path, tmp_path: Path) -> None:
    """As sd-scripts resizes (`networks/resize_lora.py`): each layer has its rank, and alpha in proportion to it.

    diffusers 0.42 gives a third of such layers the alpha of others (`get_peft_kwargs`).
    """
    lora, _ = lora_file.read(loras / "one.safetensors")
    resized: Lora = {}
    for number, (module, adapter) in enumerate(lora.items()):
        more = number % 3  # rows of zeros, so that the product is what it was
        down = torch.cat([adapter.down, torch.zeros(more, *adapter.down.shape[1:])])
        up = torch.cat([adapter.up, torch.zeros(adapter.up.shape[0], more, *adapter.up.shape[2:])], 1)
        resized[module] = Adapter(down, up, adapter.alpha * down.shape[0] / adapter.rank)
    lora_file.write(tmp_path / "resized.safetensors", resized, "sd1", {}, "fp32")
    one, other = loras / "one.safetensors", tmp_path / "resized.safetensors"
    plain, again = pipeline.draw(with_lora(PARAMS, one)), pipeline.draw(with_lora(PARAMS, other))
    assert difference(plain, again) <= 1 < difference(plain, pipeline.draw(with_lora(PARAMS)))


def test_one_lora_leaves_nothing_behind_for_the_next(pipeline: Pipeline, loras: Path) -> None:
    one, dora, two = (with_lora(PARAMS, loras / f"{name}.safetensors", 0.8) for name in ("one", "dora", "two"))
    first = [pipeline.draw(asked) for asked in (one, dora, two)]
    again = [pipeline.draw(asked) for asked in (two, one, dora)]
    assert [difference(a, b) for a, b in zip(first, (again[1], again[2], again[0]), strict=True)] == [0, 0, 0]
    assert difference(first[0], first[2]) > 5


def test_a_file_written_anew_is_loaded_anew(pipeline: Pipeline, loras: Path, tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    path.write_bytes((loras / "one.safetensors").read_bytes())
    before = pipeline.draw(with_lora(PARAMS, path))
    path.write_bytes((loras / "two.safetensors").read_bytes())
    assert difference(before, pipeline.draw(with_lora(PARAMS, path))) > 5


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' own, on NumPy 2
@pytest.mark.parametrize("name", samplers.NAMES)
def test_every_sampler_draws_and_its_seed_repeats(pipeline: Pipeline, loras: Path, name: str) -> None:
    params = GenerationParams("a zebu", 7, 64, 48, "a star", 4, 3.0, name)
    told: list[tuple[int, int]] = []
    asked = with_lora(params, loras / "one.safetensors", 0.7)
    drawn = pipeline.draw(asked, lambda done, total: told.append((done, total)))
    assert drawn.size == (64, 48)
    assert [done for done, _ in told] == list(range(1, told[-1][1] + 1)), "progress ends where it said it would"
    assert difference(drawn, pipeline.draw(asked)) == 0


def test_cancelling_in_the_middle_leaves_the_pipeline_in_order(pipeline: Pipeline, loras: Path) -> None:
    class Enough(Exception):
        pass

    told: list[int] = []

    def cancel(done: int, total: int) -> None:
        told.append(done)
        if done == 2:
            raise Enough

    expected = pipeline.draw(with_lora(PARAMS, loras / "dora.safetensors", 0.5)), pipeline.draw(with_lora(PARAMS))
    for weight in (0.0, 0.5):
        told.clear()
        with pytest.raises(Enough):
            pipeline.draw(with_lora(PARAMS, loras / "dora.safetensors", weight), cancel)
        assert told == [1, 2]
    after = pipeline.draw(with_lora(PARAMS, loras / "dora.safetensors", 0.5)), pipeline.draw(with_lora(PARAMS))
    assert [difference(a, b) for a, b in zip(expected, after, strict=True)] == [0, 0]


def test_a_lora_that_does_not_fit_is_refused_in_a_sentence(pipeline: Pipeline, loras: Path, tmp_path: Path) -> None:
    lora_file.write(tmp_path / "xl.safetensors", small_lora("sdxl"), "sdxl", {}, "fp16")
    lora_file.write(tmp_path / "big.safetensors", small_lora("sd1"), "sd1", {}, "fp16")
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    for name, words in (
        ("xl", "Stable Diffusion XL"), ("big", "does not fit"), ("broken", "cut short"), ("none", "There is no file"),
    ):  # fmt: skip
        with pytest.raises(LoraError, match=words):
            pipeline.draw(with_lora(PARAMS, tmp_path / f"{name}.safetensors"))
    assert (
        difference(pipeline.draw(with_lora(PARAMS, loras / "one.safetensors", 0.0)), pipeline.draw(with_lora(PARAMS))) == 0
    )


def test_a_lora_is_tried_with_what_it_was_trained_with(tiny_sd1: Path, tmp_path: Path) -> None:
    """A velocity model whose files do not say so, and another VAE."""
    from diffusers import AutoencoderKL

    torch.manual_seed(9)
    vae = AutoencoderKL.from_config(AutoencoderKL.load_config(str(tiny_sd1 / "vae")))
    vae.save_pretrained(tmp_path / "vae")
    pipeline, pictures = Pipeline("cpu"), []
    for values in (("", "auto"), ("", "v_prediction"), (str(tmp_path / "vae"), "auto"), ("", "auto")):
        pipeline.open(str(tiny_sd1), quiet, *values)
        pictures.append(pipeline.draw(with_lora(PARAMS)))
    plain, velocity, other_vae, again = pictures
    assert difference(plain, again) == 0
    assert difference(plain, velocity) > 1 and difference(plain, other_vae) > 1


def test_loading_is_told_and_can_be_cancelled_and_freed(tiny_sd1: Path) -> None:
    told: list[Event] = []
    pipeline = Pipeline("cpu")
    pipeline.open(str(tiny_sd1), told.append)
    assert Phase("load", detail=str(tiny_sd1)) in told and pipeline.pipeline is not None
    told.clear()
    pipeline.open(str(tiny_sd1), told.append)
    assert told == [], "a loaded model stays"
    pipeline.free()
    assert pipeline.pipeline is None

    def refuse(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.open(str(tiny_sd1), refuse)
    assert pipeline.pipeline is None
