from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from lora_core.lora.file import read
from lora_core.models import load as base_models
from lora_core.models.families import sd2
from lora_core.models.families.registry import family_of
from lora_core.training import diffusion
from tests.support.twins import Trained, compare_with_previews, curve, quiet_libraries, train_twin
from tests.training.test_train import GOLDEN


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Trained:
    return train_twin("sd2", tmp_path_factory.mktemp("sd2"), pictures)


def test_the_loss_curve_is_the_golden_one(trained: Trained) -> None:
    golden = json.loads(GOLDEN.with_name("sd2.json").read_text(encoding="utf-8"))
    for name, values in curve(trained.events).items():
        assert values == pytest.approx(golden[name], rel=1e-4)


def test_the_file_loads_whole_and_draws_what_the_previews_showed(
    trained: Trained, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(trained.model, local_files_only=True)
    with quiet_libraries(caplog):
        pipeline.load_lora_weights(str(trained.folder), weight_name=trained.file.name)
    compare_with_previews(pipeline, trained.folder, trained.events)


def test_the_file_says_what_it_was_trained_on(trained: Trained) -> None:
    lora, metadata = read(trained.file)
    assert {"unet", "text_encoder"} == {module.partition(".")[0] for module in lora}
    assert metadata["ss_v2"] == "True" and metadata["ss_base_model_version"] == "sd_v2_v"
    assert metadata["ss_zero_terminal_snr"] == "True" and metadata["modelspec.prediction_type"] == "v"


def test_the_last_timestep_is_pure_noise_and_velocity_still_says_the_picture(trained: Trained) -> None:
    model = base_models.load(str(trained.model), torch.float32, lambda event: None)
    assert model.prediction_type == "v_prediction" and model.resolution == 64
    abar = model.scheduler.alphas_cumprod[-1:]
    assert abar.item() == 0
    latents, noise = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    assert torch.equal(diffusion.add_noise(latents, noise, abar), noise)
    assert torch.equal(diffusion.target("v_prediction", latents, noise, abar), -latents)
    for gamma in (0.0, 5.0):
        weights = diffusion.min_snr_weight("v_prediction", diffusion.snr(model.scheduler.alphas_cumprod), gamma)
        assert bool(torch.isfinite(weights).all())
    sampler = model.family.pipeline(model).scheduler
    sampler.set_timesteps(4)
    assert sampler.timesteps[0] == 999, "sampling must begin where there is nothing but noise"


@pytest.mark.parametrize("odd", [{"in_channels": 9}, {"in_channels": 5}, {"class_embed_type": "projection"}])
def test_inpainting_depth_and_unclip_are_other_models(odd: dict[str, object]) -> None:
    config = {"cross_attention_dim": 1024, "in_channels": 4, "out_channels": 4}
    assert family_of(config) is sd2.FAMILY and not sd2.matches({**config, **odd})
