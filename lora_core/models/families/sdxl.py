"""Stable Diffusion XL (Podell et al. 2023): two text encoders, and a UNet that is told how a picture was cut."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionXLPipeline
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from lora_core.models.families.base import BaseModel, Conditioning, Family
from lora_core.models.families.components import (
    dtype_of,
    load_schedule,
    load_text_encoder,
    load_tokenizer,
    load_unet,
    load_vae,
)
from lora_core.models.families.specs import SDXL
from lora_core.models.families.text import in_parts, joined, tokenize


def matches(unet_config: Mapping[str, Any]) -> bool:
    """SDXL base UNets: not the refiner (another width), not inpainting (more channels in than out)."""
    return (
        unet_config.get("cross_attention_dim") in SDXL.widths
        and unet_config.get("in_channels") == unet_config.get("out_channels")
        and unet_config.get("addition_embed_type") == "text_time"
    )


def load(name: str, folder: Path, variant: str | None, dtype: torch.dtype) -> BaseModel:
    """UNet and text encoders in `dtype`; the VAE too where its settings say that it is safe, else in fp32."""
    vae_config = json.loads((folder / "vae" / "config.json").read_text(encoding="utf-8"))
    return BaseModel(
        name=name,
        family=FAMILY,
        unet=load_unet(folder, variant, dtype),
        vae=load_vae(folder, variant, vae_dtype(vae_config, dtype)),
        text_encoders={
            "text_encoder": load_text_encoder(CLIPTextModel, folder / "text_encoder", variant, dtype),
            "text_encoder_2": load_text_encoder(CLIPTextModelWithProjection, folder / "text_encoder_2", variant, dtype),
        },
        tokenizers={name: load_tokenizer(folder / name) for name in ("tokenizer", "tokenizer_2")},
        scheduler=load_schedule(folder),
    )


def vae_dtype(vae_config: Mapping[str, Any], dtype: torch.dtype) -> torch.dtype:
    """SDXL's own VAE gives NaN in fp16; `force_upcast = false` marks one that was mended (sdxl-vae-fp16-fix)."""
    return torch.float32 if vae_config.get("force_upcast", True) else dtype


def encode_text(model: BaseModel, tokens: dict[str, Tensor]) -> Conditioning:
    """The states before the last layer of both encoders side by side [B, 77 n, 2048], and what ViT-bigG makes of the
    caption's first part [B, 1280], as webuis have it. An empty caption is all zeros, as in SDXL's own training and in the
    pipelines' guidance.
    """
    first, second = model.text_encoders["text_encoder"], model.text_encoders["text_encoder_2"]
    ids, ids_2 = tokens["tokenizer"], tokens["tokenizer_2"]
    one = first(in_parts(ids).to(first.device), output_hidden_states=True)
    two = second(in_parts(ids_2).to(second.device), output_hidden_states=True)
    states_BLD = torch.cat([one.hidden_states[-2], two.hidden_states[-2].to(one.hidden_states[-2].device)], dim=-1)
    pooled_BD = two.text_embeds.reshape(len(ids), -1, two.text_embeds.shape[-1])[:, 0]
    has_words_B = ids[:, 1] != model.tokenizers["tokenizer"].eos_token_id
    return {
        "encoder_hidden_states": joined(states_BLD, ids) * has_words_B.to(states_BLD)[:, None, None],
        "pooled": pooled_BD * has_words_B.to(pooled_BD)[:, None],
    }


def predict(unet: Any, noisy_latents_BCHW: Tensor, timesteps_B: Tensor, conditioning: Conditioning) -> Tensor:
    """The UNet's output in fp32. The frames stay in fp32 too: bf16 cannot tell 1000 pixels from 1003."""
    dtype = dtype_of(unet)
    states_BLD = conditioning["encoder_hidden_states"].to(dtype)
    added = {"text_embeds": conditioning["pooled"].to(dtype), "time_ids": conditioning["frames"].float()}
    output: Tensor = unet(
        noisy_latents_BCHW.to(dtype), timesteps_B, states_BLD, added_cond_kwargs=added, return_dict=False
    )[0]
    return output.float()


def pipeline(model: BaseModel) -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline(
        vae=model.vae, unet=model.unet, **model.text_encoders, **model.tokenizers,
        scheduler=DDIMScheduler.from_config(model.scheduler.config), add_watermarker=False,
    )  # fmt: skip


FAMILY = Family(SDXL, matches, load, tokenize, encode_text, predict, pipeline)
