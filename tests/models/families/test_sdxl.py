from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from lora_core.dataset import bucket_size
from lora_core.lora.file import read
from lora_core.models import load as base_models
from lora_core.models.families import sdxl
from lora_core.models.families.base import BaseModel, Frame, whole_frame
from lora_core.models.families.registry import family_of
from lora_core.training.data.latent_cache import Prompts
from tests.support.twins import Trained, compare_with_previews, curve, quiet_libraries, train_twin
from tests.training.test_train import GOLDEN

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Trained:
    return train_twin("sdxl", tmp_path_factory.mktemp("sdxl"), pictures)


@pytest.fixture(scope="module")
def pipeline(trained: Trained) -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline.from_pretrained(trained.model, local_files_only=True)


@pytest.fixture(scope="module")
def model(trained: Trained) -> BaseModel:
    return base_models.load(str(trained.model), torch.float32, lambda event: None)


def test_the_loss_curve_is_the_golden_one(trained: Trained) -> None:
    golden = json.loads(GOLDEN.with_name("sdxl.json").read_text(encoding="utf-8"))
    for name, values in curve(trained.events).items():
        assert values == pytest.approx(golden[name], rel=1e-4)


def test_captions_are_encoded_as_the_pipeline_encodes_prompts(
    pipeline: StableDiffusionXLPipeline, model: BaseModel
) -> None:
    captions = ["a zebu", "a red zebu in a long sentence, seen from above"]
    mine = model.family.encode_text(model, model.family.tokenize(model, [*captions, ""]))
    states, _, pooled, _ = pipeline.encode_prompt(captions, device="cpu", do_classifier_free_guidance=False)
    torch.testing.assert_close(mine["encoder_hidden_states"][:2], states)
    torch.testing.assert_close(mine["pooled"][:2], pooled)
    _, none, _, none_pooled = pipeline.encode_prompt(captions[:1], device="cpu")
    assert torch.equal(mine["encoder_hidden_states"][2:], none) and torch.equal(mine["pooled"][2:], none_pooled)


def test_the_unet_is_told_what_the_pipeline_tells_it(pipeline: StableDiffusionXLPipeline, model: BaseModel) -> None:
    latents, timesteps = torch.randn(1, 4, 8, 12), torch.tensor([500])
    frame = whole_frame(96, 64)
    states, _, pooled, _ = pipeline.encode_prompt(["a zebu"], device="cpu", do_classifier_free_guidance=False)
    ids = pipeline._get_add_time_ids((64, 96), (0, 0), (64, 96), torch.float32, pooled.shape[-1])
    added = {"text_embeds": pooled, "time_ids": ids}
    with torch.no_grad():
        theirs = pipeline.unet(latents, timesteps, states, added_cond_kwargs=added).sample
        prompts = Prompts(model, CPU, live=False)
        mine = model.family.predict(model.unet, latents, timesteps, prompts(["a zebu"], [frame]))
        torch.testing.assert_close(mine, theirs)
        small: Frame = (640, 960, 0, 32, 64, 96)
        other = model.family.predict(model.unet, latents, timesteps, prompts(["a zebu"], [small]))
    assert not torch.allclose(mine, other), "a picture that was scaled and cut is told so"


def test_both_text_encoders_learn_from_states_and_pooled_caption(trained: Trained) -> None:
    lora, metadata = read(trained.file)
    moved = {module for module, adapter in lora.items() if bool(adapter.up.any())}
    assert any(m.startswith("text_encoder.text_model.encoder.layers.0.") for m in moved)
    # The last layer of the first encoder is never read; that of the second makes the pooled caption.
    assert not any(m.startswith("text_encoder.text_model.encoder.layers.1.") for m in moved)
    assert any(m.startswith("text_encoder_2.text_model.encoder.layers.1.") for m in moved)
    assert metadata["ss_base_model_version"] == "sdxl_base_v1-0"


def test_the_file_loads_whole_and_draws_what_the_previews_showed(
    trained: Trained, pipeline: StableDiffusionXLPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    with quiet_libraries(caplog):
        pipeline.load_lora_weights(str(trained.folder), weight_name=trained.file.name)
    compare_with_previews(pipeline, trained.folder, trained.events)
    pipeline.unload_lora_weights()


@pytest.mark.parametrize(
    ("config", "dtype"),
    [({}, torch.float32), ({"force_upcast": True}, torch.float32), ({"force_upcast": False}, torch.float16)],
)
def test_the_vae_computes_in_fp16_only_where_its_settings_say_that_it_can(
    config: dict[str, object], dtype: torch.dtype
) -> None:
    assert sdxl.vae_dtype(config, torch.float16) == dtype


def test_in_half_precision_all_but_the_vae_is_halved(trained: Trained) -> None:
    half = base_models.load(str(trained.model), torch.float16, lambda event: None)
    assert {p.dtype for module in half.adapted().values() for p in module.parameters()} == {torch.float16}
    assert half.vae.dtype == torch.float32


@pytest.mark.parametrize(
    ("picture", "bucket"),
    [((4000, 4000), (1024, 1024)), ((4608, 3456), (1152, 896)), ((1500, 1000), (1216, 832)), ((1080, 1920), (768, 1344))],
)
def test_at_1024_pixels_pictures_go_to_the_sizes_sdxl_was_trained_on(
    picture: tuple[int, int], bucket: tuple[int, int]
) -> None:
    assert bucket_size(*picture, resolution=1024, step=64) == bucket  # Podell et al. 2023, appendix I


@pytest.mark.parametrize("odd", [{"in_channels": 9}, {"cross_attention_dim": 1280}, {"addition_embed_type": None}])
def test_inpainting_and_the_refiner_are_other_models(odd: dict[str, object]) -> None:
    config = {"cross_attention_dim": 2048, "in_channels": 4, "out_channels": 4, "addition_embed_type": "text_time"}
    assert family_of(config) is sdxl.FAMILY and not sdxl.matches({**config, **odd})
