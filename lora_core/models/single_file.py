"""A base model from one file (.safetensors, .ckpt), without any network.

Settings, vocabulary and schedule of each family are in families/assets; the file gives the weights alone.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from lora_core.dataset.tokens import byte_letters, merges
from lora_core.errors import UserError
from lora_core.messages import joined
from lora_core.models import checkpoint_keys, identify
from lora_core.models.catalog import ASSETS
from lora_core.models.families import components
from lora_core.models.families.base import BaseModel
from lora_core.models.families.registry import family_of
from lora_core.models.families.specs import FAMILIES
from lora_core.models.hub.layout import HALF, WEIGHTS
from lora_core.models.identify import Identity, settings_in
from lora_core.models.weights import Source, Weights, open_folder, open_weights
from lora_core.system import tensor_headers

TEXT_CLASSES: dict[str, Any] = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
START, END = "<|startoftext|>", "<|endoftext|>"
_SAYS_VELOCITY = 0.09  # see _sd2_prediction


def check(path: Path, vae: str = "") -> Identity:
    """What the file is, if it can be trained on.

    Raises:
        UserError: it cannot be, and what to do.
    """
    identity = identify.of_path(path)
    if identity.problem:
        raise UserError("models.is_a", file=path, kind=identity.title, problem=identity.problem)
    lacking = [part for part in identity.lacking if part != "vae" or not vae]
    if lacking == ["vae"]:
        raise UserError("models.lacks_vae", file=path, family=FAMILIES[identity.family].title)
    if lacking:
        raise UserError("models.lacks_parts", file=path, kind=identity.title, parts=joined(lacking, "models.and"))
    return identity


def load(name: str, path: Path, dtype: torch.dtype, vae: str = "") -> BaseModel:
    """The model in the file, its components on the meta device: UNet and text encoders in `dtype`, the VAE in fp32,
    for SDXL's and at times SD1's overflow in fp16. `vae`: another VAE's file or folder instead of the one inside.

    Raises:
        UserError: it is none that can be trained, or is damaged.
        ValueError: a weight is missing or has another shape.
    """
    identity = check(path, vae)
    assets, header = ASSETS / identity.family, tensor_headers.read(path)
    read, place = functools.partial(open_weights, path, header), identify.unet_in(header.tensors)
    assert place, "a model without a UNet passed the check"
    unet = Source(name, read, functools.partial(checkpoint_keys.of_unet, unet=place), dtype)
    return BaseModel(
        name=name,
        family=family_of(settings_in(assets / "unet" / "config.json")),
        unet=components.unet(assets / "unet", unet),
        vae=load_vae(vae, identity.family) if vae else components.vae(assets / "vae", name, read, torch.float32),
        text_encoders={
            folder.name: components.text_encoder(TEXT_CLASSES[folder.name], folder, name, read, dtype)
            for folder in sorted(assets.glob("text_encoder*"))
        },
        tokenizers={folder.name: tokenizer(folder) for folder in sorted(assets.glob("tokenizer*"))},
        scheduler=_scheduler(identity, assets, read()),
    )


def load_vae(place: str, family: str) -> Any:
    """A VAE on the meta device, of a file of its own, a whole checkpoint, or a diffusers folder; in fp32.

    Raises:
        UserError: there is none, or it belongs to another family.
    """
    path, settings = Path(place).expanduser(), ASSETS / family / "vae"
    read = functools.partial(open_weights, path)
    if path.is_dir():
        folder = path / "vae" if (path / "vae").is_dir() else path
        scale = settings_in(settings / "config.json")["scaling_factor"]
        theirs = settings_in(folder / "config.json").get("scaling_factor", 0.18215)  # left out by the first diffusers
        if theirs != scale:
            raise UserError("models.vae_of_others", path=path, theirs=theirs, scale=scale)
        settings, read = folder, functools.partial(_folder_weights, folder)
    try:
        return components.vae(settings, str(path), read, torch.float32)
    except ValueError as cause:
        raise cause if isinstance(cause, UserError) else UserError("models.gives_no_vae", path=path, cause=cause) from cause


def _folder_weights(folder: Path) -> Weights:
    variant = None if (folder / f"{WEIGHTS['vae']}.safetensors").is_file() else HALF
    return open_folder(folder, WEIGHTS["vae"], variant)


def _scheduler(identity: Identity, assets: Path, weights: Weights) -> Any:
    settings = settings_in(assets / "scheduler" / "scheduler_config.json")
    try:
        settings["prediction_type"] = identity.prediction_type or _sd2_prediction(weights)
    finally:
        weights.close()
    return components.schedule({**settings, "rescale_betas_zero_snr": identity.zero_snr})


def _sd2_prediction(weights: Weights) -> str:
    """What an SD 2.x model predicts that does not say it, by ComfyUI's rule of thumb (supported_models.py): in the
    models for 768 pixels, which predict velocity, the scales of the last normalisation spread further."""
    place = identify.unet_in(weights.header.tensors)
    name = "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias"
    found = [p.name for p in checkpoint_keys.of_unet(name, place)] if place else []
    for there in (name for name in found if name in weights.header.tensors):
        spread = float(weights.read(there).float().std(correction=0))
        return "v_prediction" if spread > _SAYS_VELOCITY else "epsilon"
    return "epsilon"


# --- tokenizers -----------------------------------------------------------------------------------------------------


def tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's tokenizer, with the settings in a folder of the assets: the families differ in what they pad with."""
    settings = settings_in(folder / "tokenizer_config.json")
    pairs = merges()
    vocabulary = {word: number for number, word in enumerate(clip_words(pairs))}
    names = ("bos_token", "eos_token", "unk_token", "model_max_length")
    made = CLIPTokenizer(vocab=vocabulary, merges=pairs, **{name: settings[name] for name in names})
    # Set late, for a padding that is given at once becomes a mark of its own, and SD2's and SDXL's is the "!" of texts.
    made.pad_token = settings["pad_token"]
    return made


def clip_words(pairs: list[tuple[str, str]]) -> list[str]:
    """CLIP's 49,408 tokens by number: bytes, bytes that end a word, merged pairs, start and end (Radford et al. 2021)."""
    letters = sorted(byte_letters())
    return [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, pairs), START, END]
