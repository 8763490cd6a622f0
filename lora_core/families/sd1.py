"""Stable Diffusion 1.x (Rombach et al. 2022), and the starter model, which is a tiny one of the same build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from lora_core.families import BaseModel, Conditioning, Family

CROSS_ATTENTION_WIDTHS = (768, 96)  # Stable Diffusion 1.x, the starter


def matches(unet_config: Mapping[str, Any]) -> bool:
    """SD1 text-to-image UNets: cross attention over CLIP ViT-L states, as many channels in as out (no inpainting)."""
    return (
        unet_config.get("cross_attention_dim") in CROSS_ATTENTION_WIDTHS
        and unet_config.get("in_channels") == unet_config.get("out_channels")
        and unet_config.get("addition_embed_type") is None
    )


def load(name: str, folder: Path, variant: str | None, dtype: torch.dtype) -> BaseModel:
    """UNet and text encoder in `dtype`; the VAE in fp32, because SD1's overflows in fp16 on some pictures."""
    options: dict[str, Any] = {"variant": variant, "local_files_only": True, "use_safetensors": True}
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", dtype=dtype, **options)
    vae = AutoencoderKL.from_pretrained(folder / "vae", dtype=torch.float32, **options)
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=dtype, **options)
    return BaseModel(
        name=name,
        family=FAMILY,
        unet=unet.requires_grad_(False).eval(),
        vae=vae.requires_grad_(False).eval(),
        text_encoders={"text_encoder": text_encoder.requires_grad_(False).eval()},
        tokenizers={"tokenizer": load_tokenizer(folder / "tokenizer")},
        scheduler=DDIMScheduler.from_pretrained(folder / "scheduler", local_files_only=True),
    )


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer in a folder; raises ValueError when it is damaged or, which the library lets pass, has no words."""
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as cause:  # the tokenizers library raises plain Exceptions for damaged files
        raise ValueError(f"its tokenizer cannot be read: {(str(cause) or repr(cause)).splitlines()[0]}") from cause
    if len(tokenizer) < 256:  # fewer than there are bytes
        raise ValueError("its tokenizer has no vocabulary: tokenizer.json, or vocab.json and merges.txt, is missing")
    return tokenizer


def tokenize(model: BaseModel, captions: Sequence[str]) -> dict[str, Tensor]:
    """Captions to ids [B, 77]; what is longer is cut (the dataset report tells)."""
    tokenizer = model.tokenizers["tokenizer"]
    ids = tokenizer(list(captions), padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    return {"tokenizer": ids}


def encode_text(model: BaseModel, tokens: dict[str, Tensor]) -> Conditioning:
    """The last hidden states [B, 77, width], as the SD1 pipeline uses them (clip skip 1)."""
    encoder = model.text_encoders["text_encoder"]
    return {"encoder_hidden_states": encoder(tokens["tokenizer"].to(encoder.device))[0]}


def predict(unet: Any, noisy_latents_BCHW: Tensor, timesteps_B: Tensor, conditioning: Conditioning) -> Tensor:
    """The UNet's output in fp32: noise or velocity, as the model was trained."""
    states_BLD = conditioning["encoder_hidden_states"].to(unet.dtype)
    output: Tensor = unet(noisy_latents_BCHW.to(unet.dtype), timesteps_B, states_BLD, return_dict=False)[0]
    return output.float()


def pipeline(model: BaseModel) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=model.vae, text_encoder=model.text_encoders["text_encoder"], tokenizer=model.tokenizers["tokenizer"],
        unet=model.unet, scheduler=DDIMScheduler.from_config(model.scheduler.config),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


FAMILY = Family("sd1", matches, load, tokenize, encode_text, predict, pipeline)
