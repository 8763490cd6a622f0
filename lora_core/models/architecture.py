"""The shapes of a base model, from its settings alone: no weight is read, nothing is downloaded, no torch is needed."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_core.errors import UserError
from lora_core.models import identify
from lora_core.models.catalog import ASSETS, STARTER, STARTER_FOLDER, known
from lora_core.models.families.specs import FAMILIES, by_hub_name, by_width
from lora_core.models.identify import settings_in

if TYPE_CHECKING:
    from lora_core.models.families.base import BaseModel

SMALL_MODEL = 50_000_000  # weights of a UNet; SD 1.5 has 860 million, the starter 6
# What of a component's settings decides shapes, with what diffusers and transformers take where it is left out.
_UNET: dict[str, Any] = {
    "in_channels": 4, "out_channels": 4, "block_out_channels": None, "layers_per_block": 2, "down_block_types": None,
    "up_block_types": None, "mid_block_type": "UNetMidBlock2DCrossAttn", "attention_head_dim": 8,
    "num_attention_heads": None, "cross_attention_dim": None, "transformer_layers_per_block": 1,
    "use_linear_projection": False, "only_cross_attention": False, "addition_embed_type": None,
    "time_cond_proj_dim": None, "resnet_time_scale_shift": "default", "class_embed_type": None,
}  # fmt: skip
_TEXT: dict[str, Any] = {
    "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8,
    "vocab_size": 49408, "projection_dim": 512,
}  # fmt: skip
_VAE: dict[str, Any] = {"block_out_channels": None, "layers_per_block": 1, "latent_channels": 4}


@dataclass(frozen=True)
class Shapes:
    """Settings of a model's components. `certain`: read from the model itself, not guessed from its name."""

    family: str
    unet: Mapping[str, Any]
    text_encoders: Mapping[str, Mapping[str, Any]]
    vae: Mapping[str, Any]
    certain: bool = True
    here: bool = True  # on this computer: no download comes first

    @property
    def pixels_per_latent(self) -> int:
        return int(2 ** (len(self.vae["block_out_channels"]) - 1))

    def unet_key(self) -> str:
        return _digest(_of(self.unet, _UNET))

    def text_key(self) -> str:
        return _digest([_of(config, _TEXT) for _, config in sorted(self.text_encoders.items())])

    def vae_key(self) -> str:
        return _digest(_of(self.vae, _VAE))


def of_family(family: str) -> Shapes:
    """The shapes all models of a family have, by its name."""
    return _of_folder(ASSETS / family, family)


def of_model(model: BaseModel) -> Shapes:
    """The shapes of a model that is loaded, or on the meta device."""
    encoders = {name: encoder.config.to_dict() for name, encoder in model.text_encoders.items()}
    return Shapes(model.family.name, dict(model.unet.config), encoders, dict(model.vae.config))


def shapes_of(name: str) -> Shapes:
    """The shapes of the base model called `name`, as --pretrained_model_name_or_path takes it.

    A hub id whose settings are not on this computer counts as of the family that its name speaks of.

    Raises:
        UserError: no such file, or no model that can be trained.
    """
    path = Path(name).expanduser()
    if name == STARTER:
        return _of_folder(STARTER_FOLDER, "")
    if name and path.is_dir():
        return _of_folder(path, "")
    if name and path.is_file():
        found = identify.of_path(path)
        if not found.family:
            raise UserError("models.is_a", file=path, kind=found.title, problem=found.problem or "")
        return of_family(found.family)
    return _of_hub(name)


def _of_hub(name: str) -> Shapes:
    from lora_core.models.hub import client

    repo = client.canonical(name)[0]
    if not client.is_repo_id(repo):
        raise UserError("models.base_missing_here", name=name)
    if folder := client.cached_folder(repo):
        try:
            return _of_folder(folder, "")
        except UserError:  # only a part of it has come down
            pass
    base = known(repo)
    guessed = of_family((base.family if base else by_hub_name(repo)).name)
    return Shapes(guessed.family, guessed.unet, guessed.text_encoders, guessed.vae, base is not None, here=False)


def _of_folder(folder: Path, family: str) -> Shapes:
    newest = max((path.stat().st_mtime_ns for path in folder.glob("*/config.json")), default=0)
    return _read(folder, family, newest)


@functools.lru_cache(maxsize=32)
def _read(folder: Path, family: str, newest: int) -> Shapes:
    """`newest` makes a folder that changed another one."""
    unet = settings_in(folder / "unet" / "config.json")
    width = unet.get("cross_attention_dim")
    found = FAMILIES[family] if family else by_width(width)
    if found is None:
        raise UserError("models.odd_width", folder=folder, width=width)
    encoders = {path.parent.name: settings_in(path) for path in sorted(folder.glob("text_encoder*/config.json"))}
    return Shapes(found.name, unet, encoders, settings_in(folder / "vae" / "config.json"))


def _of(config: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    return {name: config.get(name, default) for name, default in wanted.items()}


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
