"""The parts all families are made of: how each is read from a diffusers folder, frozen, in its number format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTokenizer

from lora_core.errors import UserError


def load_unet(folder: Path, variant: str | None, dtype: torch.dtype) -> Any:
    """The UNet2DConditionModel in `folder`/unet."""
    return _frozen(UNet2DConditionModel.from_pretrained(folder / "unet", dtype=dtype, **_options(variant)))


def load_vae(folder: Path, variant: str | None, dtype: torch.dtype = torch.float32) -> Any:
    """The AutoencoderKL in `folder`/vae."""
    return _frozen(AutoencoderKL.from_pretrained(folder / "vae", dtype=dtype, **_options(variant)))


def load_text_encoder(kind: Any, folder: Path, variant: str | None, dtype: torch.dtype) -> Any:
    """The text encoder of class `kind` in `folder`."""
    return _frozen(kind.from_pretrained(folder, dtype=dtype, **_options(variant)))


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer in a folder; raises ValueError when it is damaged or, which the library lets pass, has no words."""
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as cause:  # the tokenizers library raises plain Exceptions for damaged files
        raise ValueError(f"its tokenizer cannot be read: {(str(cause) or repr(cause)).splitlines()[0]}") from cause
    if len(tokenizer) < 256:  # fewer than there are bytes
        raise ValueError("its tokenizer has no vocabulary: tokenizer.json, or vocab.json and merges.txt, is missing")
    return tokenizer


def load_schedule(folder: Path) -> DDIMScheduler:
    """The noise schedule in `folder`/scheduler, whichever sampler it was saved for."""
    return schedule(dict(DDIMScheduler.load_config(folder / "scheduler", local_files_only=True)))


def schedule(config: Mapping[str, Any]) -> DDIMScheduler:
    """The noise schedule of a model whose scheduler has these settings: betas, prediction type, zero terminal SNR.

    Where the last timestep is pure noise (Lin et al. 2024, "Common diffusion noise schedules and sample steps are
    flawed"), samplers must begin there: trailing spacing.

    Raises:
        UserError: a schedule of another kind, or one that no model can follow.
    """
    kind = str(config.get("_class_name", ""))
    if kind.startswith(("EDM", "FlowMatch")):
        raise UserError(f"The base model has a noise schedule of another kind ({kind}); Treino cannot train it.")
    settings = {**config, "clip_sample": False}  # latents are not bounded by one
    if settings.get("rescale_betas_zero_snr"):
        if settings.get("prediction_type", "epsilon") != "v_prediction":
            raise UserError(
                "The base model's scheduler asks for zero terminal SNR but not for v_prediction: from pure noise, "
                "noise says nothing about the picture. Correct prediction_type in its scheduler_config.json."
            )
        settings["timestep_spacing"] = "trailing"
    return DDIMScheduler.from_config(settings)


def _options(variant: str | None) -> dict[str, Any]:
    return {"variant": variant, "local_files_only": True, "use_safetensors": True}


def _frozen(module: Any) -> Any:
    return module.requires_grad_(False).eval()
