"""UNets and text encoders of the three families: real ones without memory (meta device) and tiny ones with weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

FAMILIES = ("sd1", "sd2", "sdxl")
_SD = {
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "in_channels": 4, "out_channels": 4, "layers_per_block": 2,
}  # fmt: skip
_SDXL = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "in_channels": 4, "out_channels": 4, "layers_per_block": 2, "use_linear_projection": True,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "cross_attention_dim": 2048,
}  # fmt: skip
# The sizes of runwayml/stable-diffusion-v1-5, stabilityai/stable-diffusion-2-1 and stable-diffusion-xl-base-1.0.
REAL: dict[str, dict[str, Any]] = {
    "sd1": {**_SD, "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd2": {
        **_SD, "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 1024, "use_linear_projection": True,
        "attention_head_dim": (5, 10, 20, 20),
    },
    "sdxl": {
        **_SDXL, "block_out_channels": (320, 640, 1280), "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20), "projection_class_embeddings_input_dim": 2816,
    },
}  # fmt: skip
# The same builds, as narrow as they go; only the cross attention keeps its width, which tells the family.
TINY: dict[str, dict[str, Any]] = {
    "sd1": {**REAL["sd1"], "block_out_channels": (8, 16, 16, 16), "norm_num_groups": 4, "attention_head_dim": 2},
    "sd2": {**REAL["sd2"], "block_out_channels": (8, 16, 16, 16), "norm_num_groups": 4, "attention_head_dim": 2},
    "sdxl": {
        **REAL["sdxl"], "block_out_channels": (8, 16, 16), "norm_num_groups": 4, "attention_head_dim": 2,
        "transformer_layers_per_block": (1, 2, 2),
    },
}  # fmt: skip
TARGETS = (
    "to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out",
    "conv1", "conv2", "conv_shortcut", "time_emb_proj", "conv",
)  # fmt: skip
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
# Layers, width and inner width of each text encoder.
TEXT_SIZES = {
    "sd1": {"text_encoder": (12, 768, 3072)},
    "sd2": {"text_encoder": (23, 1024, 4096)},
    "sdxl": {"text_encoder": (12, 768, 3072), "text_encoder_2": (32, 1280, 5120)},
}


def real_unet(family: str) -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel(**REAL[family])


def tiny_unet(family: str) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(sample_size=8, **TINY[family])


def tiny_text_encoders(family: str) -> dict[str, Any]:
    torch.manual_seed(0)
    encoders: dict[str, Any] = {}
    for component in TEXT_SIZES[family]:
        config = CLIPTextConfig(
            vocab_size=32, hidden_size=16, intermediate_size=32, projection_dim=16, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=8, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
        kind = CLIPTextModelWithProjection if component == "text_encoder_2" else CLIPTextModel
        encoders[component] = kind(config)
    return encoders


def text_modules(family: str) -> dict[str, tuple[int, int]]:
    """Every adaptable module of the real text encoders, in our names, with [out, in]."""
    modules = {}
    for component, (layers, width, inner) in TEXT_SIZES[family].items():
        for layer in range(layers):
            stem = f"{component}.text_model.encoder.layers.{layer}"
            for part in ("q", "k", "v", "out"):
                modules[f"{stem}.self_attn.{part}_proj"] = (width, width)
            modules[f"{stem}.mlp.fc1"], modules[f"{stem}.mlp.fc2"] = (inner, width), (width, inner)
    return modules


def unet_modules(unet: UNet2DConditionModel) -> dict[str, tuple[int, ...]]:
    """Every module of a UNet that takes an adapter in the webuis, by diffusers' path, in the order it is run."""
    return {path: tuple(module.weight.shape) for path, module in _in_order(unet)}


def _in_order(unet: UNet2DConditionModel) -> Iterator[tuple[str, nn.Module]]:
    for number, block in enumerate(unet.down_blocks):
        place = f"down_blocks.{number}"
        for layer, resnet in enumerate(block.resnets):
            yield from _resnet(f"{place}.resnets.{layer}", resnet)
            if hasattr(block, "attentions"):
                yield from _transformer(f"{place}.attentions.{layer}", block.attentions[layer])
        if block.downsamplers is not None:
            yield f"{place}.downsamplers.0.conv", block.downsamplers[0].conv
    middle = unet.mid_block
    yield from _resnet("mid_block.resnets.0", middle.resnets[0])
    yield from _transformer("mid_block.attentions.0", middle.attentions[0])
    yield from _resnet("mid_block.resnets.1", middle.resnets[1])
    for number, block in enumerate(unet.up_blocks):
        place = f"up_blocks.{number}"
        for layer, resnet in enumerate(block.resnets):
            yield from _resnet(f"{place}.resnets.{layer}", resnet)
            if hasattr(block, "attentions"):
                yield from _transformer(f"{place}.attentions.{layer}", block.attentions[layer])
        if block.upsamplers is not None:
            yield f"{place}.upsamplers.0.conv", block.upsamplers[0].conv


def _resnet(place: str, block: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    yield f"{place}.conv1", block.conv1
    yield f"{place}.time_emb_proj", block.time_emb_proj
    yield f"{place}.conv2", block.conv2
    if block.conv_shortcut is not None:
        yield f"{place}.conv_shortcut", block.conv_shortcut


def _transformer(place: str, model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    yield f"{place}.proj_in", model.proj_in
    for number, block in enumerate(model.transformer_blocks):
        for attention in ("attn1", "attn2"):
            layer, name = getattr(block, attention), f"{place}.transformer_blocks.{number}.{attention}"
            for part in ("to_q", "to_k", "to_v"):
                yield f"{name}.{part}", getattr(layer, part)
            yield f"{name}.to_out.0", layer.to_out[0]
        yield f"{place}.transformer_blocks.{number}.ff.net.0.proj", block.ff.net[0].proj
        yield f"{place}.transformer_blocks.{number}.ff.net.2", block.ff.net[2]
    yield f"{place}.proj_out", model.proj_out
