"""Stable Diffusion 2.x: SD1's build with OpenCLIP ViT-H as text encoder; 2.0 and 2.1 at 768 pixels predict velocity."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPTextModel

from lora_core.models.families.base import BaseModel, Family
from lora_core.models.families.components import load_schedule, load_text_encoder, load_tokenizer, load_unet, load_vae
from lora_core.models.families.sd1 import encode_text, pipeline, predict
from lora_core.models.families.specs import SD2
from lora_core.models.families.text import tokenize


def matches(unet_config: Mapping[str, Any]) -> bool:
    """SD2 text-to-image UNets: no depth or inpainting (more channels in than out), no unCLIP (class embeddings)."""
    return (
        unet_config.get("cross_attention_dim") in SD2.widths
        and unet_config.get("in_channels") == unet_config.get("out_channels")
        and unet_config.get("addition_embed_type") is None
        and unet_config.get("class_embed_type") is None
    )


def load(name: str, folder: Path, variant: str | None, dtype: torch.dtype) -> BaseModel:
    """UNet and text encoder in `dtype`, the VAE in fp32.

    SD2 was trained on the states before OpenCLIP's last layer. The text encoder of a diffusers folder has that layer
    cut off (23 of 24), so its last states, which SD1's `encode_text` takes, are the right ones.
    """
    return BaseModel(
        name=name,
        family=FAMILY,
        unet=load_unet(folder, variant, dtype),
        vae=load_vae(folder, variant),
        text_encoders={"text_encoder": load_text_encoder(CLIPTextModel, folder / "text_encoder", variant, dtype)},
        tokenizers={"tokenizer": load_tokenizer(folder / "tokenizer")},
        scheduler=load_schedule(folder),
    )


FAMILY = Family(SD2, matches, load, tokenize, encode_text, predict, pipeline)
