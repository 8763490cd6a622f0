"""Random twins of SD1, SD2 and SDXL: every width that tells a family is real, everything else as small as it goes.

SD2's twin predicts velocity at zero terminal SNR, as 2.1's finetunes do; SDXL's predicts noise.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lora_core.events import Event, Sample, Step, Validation
from lora_core.starter.tokens import build_tokenizer
from tests.clients.models import TINY
from tests.support.training import config_for, run
from tests.training.test_train import EVERYTHING

PIPELINES: dict[str, Any] = {"sd2": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}
# One run for all that is tested of a family: the golden curve, the file, the pictures.
TWIN_RUN: dict[str, object] = {
    **EVERYTHING, "max_train_steps": 6, "save_steps": 6, "learning_rate": 1e-2, "sample_count": 2, "snr_gamma": 0.0,
    "sample_prompts": ["a zebu", "a cow"], "lora_dropout": 0.0,
    "target_modules": [
        "to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "conv1", "conv_shortcut",
        "time_emb_proj", "conv",
    ],
}  # fmt: skip


def save_twin(family: str, folder: Path, **schedule: object) -> Path:
    """Save a pipeline of random weights, the same every time, as a diffusers folder."""
    torch.manual_seed(0)
    build = {"sd1": _sd1, "sd2": _sd2, "sdxl": _sdxl}[family]
    build(**schedule).save_pretrained(folder, safe_serialization=True)
    return folder


def _sd1(**schedule: object) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        unet=UNet2DConditionModel(sample_size=8, **TINY["sd1"]), vae=_vae(), tokenizer=build_tokenizer(),
        text_encoder=CLIPTextModel(_text_config(768, layers=2)), scheduler=_schedule(**schedule),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def _sd2(**schedule: object) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        unet=UNet2DConditionModel(sample_size=8, **TINY["sd2"]), vae=_vae(), tokenizer=build_tokenizer(),
        text_encoder=CLIPTextModel(_text_config(1024, layers=1)),
        scheduler=_schedule(
            prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", **schedule
        ),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def _sdxl(**schedule: object) -> StableDiffusionXLPipeline:
    second = build_tokenizer()
    second.pad_token = "!"  # OpenCLIP's, which pads with the first id
    return StableDiffusionXLPipeline(
        unet=UNet2DConditionModel(sample_size=8, **TINY["sdxl"]), vae=_vae(), tokenizer=build_tokenizer(),
        text_encoder=CLIPTextModel(_text_config(768, layers=2)), tokenizer_2=second,
        text_encoder_2=CLIPTextModelWithProjection(_text_config(1280, layers=2)), scheduler=_schedule(**schedule),
    )  # fmt: skip


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=4, sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, scaling_factor=0.13025,
    )  # fmt: skip


def _text_config(width: int, layers: int) -> CLIPTextConfig:
    tokenizer = build_tokenizer()
    return CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=32, projection_dim=width,
        num_hidden_layers=layers, num_attention_heads=width // 64, max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip


def _schedule(**settings: object) -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1, **settings,
    )  # fmt: skip


@contextmanager
def quiet_libraries(caplog: Any) -> Iterator[None]:
    """diffusers and peft tell of keys they could not place in their logs alone: within the block, nothing may be told."""
    caplog.clear()
    loggers = [logging.getLogger(name) for name in ("diffusers", "peft")]
    for logger in loggers:
        logger.addHandler(caplog.handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(caplog.handler)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def compare_with_previews(pipeline: Any, folder: Path, events: list[Event]) -> None:
    """A pipeline with the file draws what the previews showed after the last step, and not what they showed before."""
    pipeline.set_progress_bar_config(disable=True)
    last = max(event.step for event in events if isinstance(event, Sample))
    shown = [event for event in events if isinstance(event, Sample) and event.step == last]
    assert shown and last
    for event in shown:
        drawn = pipeline(
            event.prompt, num_inference_steps=3, guidance_scale=7.5, width=64, height=64,
            generator=torch.Generator().manual_seed(event.seed),
        ).images[0]  # fmt: skip
        before = event.path.replace(f"{last:07d}", f"{0:07d}")
        preview, base = (np.asarray(Image.open(folder / path), float) for path in (event.path, before))
        difference = np.abs(np.asarray(drawn, float) - preview).mean()
        assert difference < 1 < np.abs(base - preview).mean(), difference  # of 255 levels; the file is in fp16


def curve(events: list[Event]) -> dict[str, list[float]]:
    """What a golden file holds of a run."""
    validation = [event.loss for event in events if isinstance(event, Validation)]
    return {"loss": [event.loss for event in events if isinstance(event, Step)], "validation": validation}


@dataclass(frozen=True)
class Trained:
    """A twin and a finished run on it."""

    model: Path
    folder: Path
    events: list[Event]

    @property
    def file(self) -> Path:
        return self.folder / "pytorch_lora_weights.safetensors"


def train_twin(family: str, home: Path, data: Path) -> Trained:
    """Run `TWIN_RUN` on a new twin in `home`."""
    model = save_twin(family, home / "model")
    job, events = run(config_for(model, data, home / "out", **TWIN_RUN))
    if job.error:
        raise job.error
    return Trained(model, home / "out", events)
