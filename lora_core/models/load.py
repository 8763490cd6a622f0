"""Where base models come from: the bundled starter, one file, a diffusers folder, or the hub."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from lora_core.errors import UserError
from lora_core.events import Emit, Phase, Warned
from lora_core.messages import Message
from lora_core.models import identify, single_file
from lora_core.models.catalog import STARTER, STARTER_FOLDER, known
from lora_core.models.device import use_cores
from lora_core.models.families import components
from lora_core.models.families.base import BaseModel
from lora_core.models.families.registry import family_of
from lora_core.models.hub import client
from lora_core.models.identify import settings_in
from lora_core.models.weights import load_to, reason
from lora_core.system import windows


def load(
    name: str, dtype: torch.dtype, emit: Emit, vae: str = "", prediction_type: str = "auto", zero_terminal_snr: str = "auto"
) -> BaseModel:
    """The base model called `name`, whole, on the CPU, frozen; UNet and text encoders in `dtype`.

    vae: a file or folder with another VAE, empty for the model's own. prediction_type, zero_terminal_snr: what the model
    predicts, and whether it begins at pure noise, where it does not say it itself or says it wrongly.

    Raises:
        UserError: no such model, or one that Treino cannot train, with what to do.
    """
    model = open_on_meta(name, dtype, emit, vae, prediction_type, zero_terminal_snr)
    for module in (model.unet, model.vae, *model.text_encoders.values()):
        load_to(module, "cpu")
    return model


def open_on_meta(
    name: str, dtype: torch.dtype, emit: Emit, vae: str = "", prediction_type: str = "auto", zero_terminal_snr: str = "auto"
) -> BaseModel:
    """As `load`, but no weight is read yet: `weights.load_to` does that, component by component, straight to a device."""
    emit(Phase("load", detail=name))
    transformers_logging.disable_progress_bar()
    diffusers_logging.disable_progress_bar()
    try:
        model = _opened(name, dtype, emit, vae)
        model.scheduler = components.as_asked(model.scheduler, *_said(name, prediction_type, zero_terminal_snr))
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError) as cause:
        raise UserError("models.base_unloadable", name=name, why=reason(cause)) from cause
    for remark in _remarks(name, model, prediction_type):
        emit(Warned(remark))
    use_cores(model.unet)
    return model


def _said(name: str, prediction_type: str, zero_terminal_snr: str) -> tuple[str, str]:
    """What the settings of these names say, and where they say "auto", what is known of a model of the hub."""
    base = None if Path(name).expanduser().exists() else known(name)
    if base and prediction_type == "auto":
        prediction_type = base.prediction_type
        if base.zero_snr and zero_terminal_snr == "auto":
            zero_terminal_snr = "on"
    return prediction_type, zero_terminal_snr


def _opened(name: str, dtype: torch.dtype, emit: Emit, vae: str) -> BaseModel:
    path = Path(name).expanduser()
    if name and path.is_file():
        return single_file.load(name, path, dtype, vae)
    folder, variant = locate(name, dtype, emit)
    model = family_of(settings_in(folder / "unet" / "config.json")).load(name, folder, variant, dtype)
    if vae:
        model.vae = single_file.load_vae(vae, model.family.name)
    return model


def check(name: str, vae: str = "") -> None:
    """Everything wrong with a base model that shows without a download and without reading weights.

    Raises:
        UserError: no such file or folder and no hub id, or a model that Treino cannot train.
    """
    path = Path(name).expanduser()
    if vae and not Path(vae).expanduser().exists():
        raise UserError("models.no_vae", vae=vae)
    if name and path.is_file():
        single_file.check(path, vae)
    elif name == STARTER or (name and path.exists()):
        family_of(settings_in(_local(name)[0] / "unet" / "config.json"))
    elif problem := windows.path_problem(path):
        raise UserError(problem)
    elif not client.is_repo_id(client.canonical(name)[0]):
        raise UserError("models.base_missing", name=name)


def locate(name: str, dtype: torch.dtype, emit: Emit) -> tuple[Path, str | None]:
    """The diffusers folder of a model, and the variant ("fp16" or None) of its weight files; downloads if needed."""
    if name == STARTER or (name and Path(name).expanduser().exists()):
        return _local(name)
    fetched = client.fetch(name, emit, "no" if dtype == torch.float32 else "fp16")
    return fetched.folder, fetched.variant


def _local(name: str) -> tuple[Path, str | None]:
    if name == STARTER:
        return STARTER_FOLDER, None
    folder = Path(name).expanduser()
    if not (folder / "model_index.json").is_file():
        raise UserError("models.base_no_index", folder=folder)
    return folder, _variant(folder)


def _remarks(name: str, model: BaseModel, prediction_type: str) -> list[Message]:
    """What to know of a file that can be trained."""
    path = Path(name).expanduser()
    if not name or not path.is_file():
        return []
    identity = identify.of_path(path)
    remarks = [Message("models.remark", file=path.name, note=note) for note in identity.notes]
    if not identity.prediction_type and prediction_type == "auto":
        remarks.append(Message("models.prediction_guessed", file=path.name, prediction=model.prediction_type))
    return remarks


def fingerprint(model: BaseModel, component: str) -> str:
    """A hash of a component's config and weights, so that a cache never serves another model's tensors."""
    if component not in model.fingerprints:
        module: Any = getattr(model, component, None) or model.text_encoders[component]
        config = module.config.to_dict() if hasattr(module.config, "to_dict") else dict(module.config)
        digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
        for key, tensor in sorted(module.state_dict().items()):
            digest.update(key.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        model.fingerprints[component] = digest.hexdigest()
    return model.fingerprints[component]


def _variant(folder: Path) -> str | None:
    has_plain = any(p.name.count(".") == 1 for p in (folder / "unet").glob("*.safetensors"))
    return None if has_plain or not any((folder / "unet").glob("*.fp16.safetensors")) else "fp16"
