"""Where base models come from: the bundled starter, a diffusers folder, or the hub."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from lora_core import hub
from lora_core.errors import UserError
from lora_core.events import Emit, Phase
from lora_core.families import BaseModel, identify

STARTER = Path(__file__).parent / "starter" / "model"


def load(name: str, dtype: torch.dtype, emit: Emit) -> BaseModel:
    """The base model called `name`, on the CPU, frozen; UNet and text encoders in `dtype`.

    Raises:
        UserError: no such model, or one that Treino cannot train, with what to do.
    """
    emit(Phase("load", detail=name))
    transformers_logging.disable_progress_bar()
    diffusers_logging.disable_progress_bar()
    folder, variant = locate(name, dtype, emit)
    family = identify(_config(folder, "unet"))
    try:
        return family.load(name, folder, variant, dtype)
    except (OSError, ValueError, RuntimeError, KeyError) as cause:
        first_line = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
        raise UserError(f"The base model {name} cannot be loaded: {first_line}") from cause


def check(name: str) -> None:
    """Everything wrong with the name of a base model that shows without a download.

    Raises:
        UserError: no such folder and no hub id, or a model that Treino cannot train.
    """
    if name != "starter" and not (name and Path(name).expanduser().exists()):
        if not hub.is_repo_id(hub.canonical(name)[0]):
            raise UserError(
                f"There is no base model {name!r}: no such folder, and no hub id (owner/name). Or try 'starter'."
            )
        return
    identify(_config(_local(name)[0], "unet"))


def locate(name: str, dtype: torch.dtype, emit: Emit) -> tuple[Path, str | None]:
    """The diffusers folder of a model, and the variant ("fp16" or None) of its weight files; downloads if needed."""
    if name == "starter" or (name and Path(name).expanduser().exists()):
        return _local(name)
    fetched = hub.fetch(name, emit, "no" if dtype == torch.float32 else "fp16")
    return fetched.folder, fetched.variant


def _local(name: str) -> tuple[Path, str | None]:
    if name == "starter":
        return STARTER, None
    folder = Path(name).expanduser()
    if folder.is_file():
        raise UserError(f"{folder} is a single file; give a diffusers folder, a hub id or 'starter'.")
    if not (folder / "model_index.json").is_file():
        raise UserError(f"{folder} is no base model: it has no model_index.json. Give the folder that holds it.")
    return folder, _variant(folder)


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


def _config(folder: Path, component: str) -> dict[str, Any]:
    file = folder / component / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        raise UserError(
            f"The base model in {folder} is incomplete: {file.name} of its {component} cannot be read."
        ) from cause
    if not isinstance(config, dict):
        raise UserError(f"The base model in {folder} is damaged: {file} holds no settings.")
    return config
