"""The parts all families are made of: how each is read from a diffusers folder, frozen, in its number format.

UNets, VAEs and text encoders start on the meta device: weights are read when they are loaded to a real one (weights.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTokenizer

from lora_core.errors import UserError
from lora_core.models import checkpoint_keys
from lora_core.models.checkpoint_keys import Place
from lora_core.models.hub.layout import WEIGHTS
from lora_core.models.identify import settings_in
from lora_core.models.weights import MisfitError, Source, Weights, on_meta, open_folder, reason


def load_unet(folder: Path, variant: str | None, dtype: torch.dtype) -> Any:
    """The UNet2DConditionModel in `folder`/unet."""
    return unet(folder / "unet", Source(str(folder), _reader(folder / "unet", variant), _as_named, dtype))


def dtype_of(unet: torch.nn.Module) -> torch.dtype:
    """The format it computes in: its first weight's, which is never in 8 bits. diffusers' own `dtype` looks at every
    layer, thousands of calls at every step.
    """
    return next(unet.parameters()).dtype


def load_vae(folder: Path, variant: str | None, dtype: torch.dtype = torch.float32) -> Any:
    """The AutoencoderKL in `folder`/vae."""
    return vae(folder / "vae", str(folder), _reader(folder / "vae", variant), dtype)


def load_text_encoder(kind: Any, folder: Path, variant: str | None, dtype: torch.dtype) -> Any:
    """The text encoder of class `kind` in `folder`, which has the component's name."""
    return text_encoder(kind, folder, str(folder.parent), _reader(folder, variant), dtype)


def unet(settings: Path, source: Source) -> Any:
    """A UNet on the meta device with the config.json in the folder `settings`."""
    config = settings_in(settings / "config.json")
    return on_meta(lambda: UNet2DConditionModel.from_config(config), source)


def vae(settings: Path, where: str, read: Callable[[], Weights], dtype: torch.dtype) -> Any:
    """A VAE on the meta device with the config.json in the folder `settings`, from the open file that `read` gives."""
    config = settings_in(settings / "config.json")
    levels = len(config.get("block_out_channels", ()))
    places = functools.partial(checkpoint_keys.of_vae, levels=levels)
    return on_meta(lambda: AutoencoderKL.from_config(config), Source(where, read, places, dtype))


def text_encoder(kind: Any, settings: Path, where: str, read: Callable[[], Weights], dtype: torch.dtype) -> Any:
    """A text encoder on the meta device with the config.json in the folder `settings`, which has the component's name."""
    config = CLIPTextConfig.from_dict(settings_in(settings / "config.json"))
    places = functools.partial(checkpoint_keys.of_text_encoder, component=settings.name)
    return on_meta(lambda: kind(config), Source(where, read, places, dtype))


def _reader(folder: Path, variant: str | None) -> Callable[[], Weights]:
    return functools.partial(open_folder, folder, WEIGHTS[folder.name], variant)


def _as_named(name: str) -> list[Place]:
    return [Place(name)]


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer in a folder; raises MisfitError when it is damaged or, which the library lets pass, has no words."""
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as cause:  # the tokenizers library raises plain Exceptions for damaged files
        raise MisfitError("models.tokenizer_unreadable", cause=reason(cause)) from cause
    if len(tokenizer) < 256:  # fewer than there are bytes
        raise MisfitError("models.tokenizer_empty")
    return tokenizer


def load_schedule(folder: Path) -> DDIMScheduler:
    """The noise schedule in `folder`/scheduler, whichever sampler it was saved for."""
    return schedule(dict(DDIMScheduler.load_config(folder / "scheduler", local_files_only=True)))


def schedule(config: Mapping[str, Any]) -> DDIMScheduler:
    """The noise schedule of a model whose scheduler has these settings: betas, prediction type, zero terminal SNR.

    Raises:
        UserError: a schedule of another kind.
    """
    kind = str(config.get("_class_name", ""))
    if kind.startswith(("EDM", "FlowMatch")):
        raise UserError("models.odd_schedule", kind=kind)
    return DDIMScheduler.from_config({**config, "clip_sample": False})  # latents are not bounded by one


def as_asked(own: DDIMScheduler, prediction_type: str = "auto", zero_terminal_snr: str = "auto") -> DDIMScheduler:
    """A model's own schedule with what the settings of these names say instead of it; "auto" leaves it what it says.

    Where the last timestep is pure noise (Lin et al. 2023, "Common diffusion noise schedules and sample steps are
    flawed"), samplers must begin there: trailing spacing.

    Raises:
        UserError: pure noise that a model begins at which predicts noise.
    """
    asked: dict[str, Any] = {}
    if prediction_type != "auto":
        asked["prediction_type"] = prediction_type
    if zero_terminal_snr != "auto":
        asked["rescale_betas_zero_snr"] = zero_terminal_snr == "on"
    settings = {**own.config, **asked}
    if settings["rescale_betas_zero_snr"]:
        if settings["prediction_type"] != "v_prediction":
            raise UserError("models.zero_snr_of_noise")
        asked["timestep_spacing"] = "trailing"
    if all(own.config[name] == value for name, value in asked.items()):
        return own
    unsaid = [name for name in own.config.get("_use_default_values", ()) if name not in asked]
    return schedule({**settings, **asked, "_use_default_values": unsaid})
