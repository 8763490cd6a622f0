"""Stable Diffusion 1.x (Rombach et al. 2022), and the starter model, which is a tiny one of the same build."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Tensor
from transformers import CLIPTextModel

from lora_core.models.families.base import BaseModel, Conditioning, Family
from lora_core.models.families.components import (
    dtype_of,
    load_schedule,
    load_text_encoder,
    load_tokenizer,
    load_unet,
    load_vae,
)
from lora_core.models.families.specs import SD1
from lora_core.models.families.text import in_parts, joined, tokenize


def matches(unet_config: Mapping[str, Any]) -> bool:
    """SD1 text-to-image UNets: cross attention over CLIP ViT-L states, as many channels in as out (no inpainting)."""
    return (
        unet_config.get("cross_attention_dim") in SD1.widths
        and unet_config.get("in_channels") == unet_config.get("out_channels")
        and unet_config.get("addition_embed_type") is None
    )


def load(name: str, folder: Path, variant: str | None, dtype: torch.dtype) -> BaseModel:
    """UNet and text encoder in `dtype`; the VAE in fp32, because SD1's overflows in fp16 on some pictures."""
    return BaseModel(
        name=name,
        family=FAMILY,
        unet=load_unet(folder, variant, dtype),
        vae=load_vae(folder, variant),
        text_encoders={"text_encoder": load_text_encoder(CLIPTextModel, folder / "text_encoder", variant, dtype)},
        tokenizers={"tokenizer": load_tokenizer(folder / "tokenizer")},
        scheduler=load_schedule(folder),
    )


def encode_text(model: BaseModel, tokens: dict[str, Tensor]) -> Conditioning:
    """The last hidden states [B, 77 n, width], as the SD1 pipeline uses them; at clip skip 2 those before the last layer,
    through the last one's normalisation (NovelAI 2022, as A1111 and sd-scripts do).
    """
    encoder = model.text_encoders["text_encoder"]
    ids = in_parts(tokens["tokenizer"]).to(encoder.device)
    if model.clip_skip == 1:
        return {"encoder_hidden_states": joined(encoder(ids)[0], tokens["tokenizer"])}
    layers = encoder(ids, output_hidden_states=True).hidden_states
    return {"encoder_hidden_states": joined(encoder.final_layer_norm(layers[-model.clip_skip]), tokens["tokenizer"])}


def predict(unet: Any, noisy_latents_BCHW: Tensor, timesteps_B: Tensor, conditioning: Conditioning) -> Tensor:
    """The UNet's output in fp32: noise or velocity, as the model was trained."""
    dtype = dtype_of(unet)
    states_BLD = conditioning["encoder_hidden_states"].to(dtype)
    output: Tensor = unet(noisy_latents_BCHW.to(dtype), timesteps_B, states_BLD, return_dict=False)[0]
    return output.float()


def pipeline(model: BaseModel) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=model.vae, text_encoder=model.text_encoders["text_encoder"], tokenizer=model.tokenizers["tokenizer"],
        unet=model.unet, scheduler=DDIMScheduler.from_config(model.scheduler.config),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


FAMILY = Family(SD1, matches, load, tokenize, encode_text, predict, pipeline)
