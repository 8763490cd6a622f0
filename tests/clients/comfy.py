"""ComfyUI and Forge (`comfy/lora.py`): a table of every name they know, made from the model; what is not in it is left.

The table has each module under its original name and under diffusers', the text encoders under clip_l, clip_h, clip_g.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tests.clients.original import RESNETS, Module

_RESNET = {
    "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj", "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}  # fmt: skip
_TEXT = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")


def table(family: str, modules: Sequence[Module], config: Mapping[str, Any], layers: Mapping[str, int]) -> dict[str, str]:
    """Name in a file -> original UNet name, or "<which>:<layer>:<part>" for text."""
    names = {"lora_unet_" + module.path.replace(".", "_"): module.path for module in modules}
    for module in modules:
        if (path := _diffusers_name(module.path, len(config["block_out_channels"]))) is not None:
            names["lora_unet_" + path.replace(".", "_")] = module.path
    for which, count in layers.items():
        # clip_l and clip_h answer to lora_te and lora_te1, clip_g beside clip_l to lora_te2.
        prefixes = ("lora_te2",) if which == "text_encoder_2" else ("lora_te", "lora_te1")
        for layer in range(count):
            for part in _TEXT:
                under = part.replace(".", "_")
                for prefix in prefixes:
                    names[f"{prefix}_text_model_encoder_layers_{layer}_{under}"] = f"{which}:{layer}:{under}"
    return names


def _diffusers_name(path: str, levels: int) -> str | None:
    """`utils.unet_to_diffusers`, from the other side: counts blocks per level as that function does."""
    head, number, *rest = path.split(".")
    if head == "middle_block":
        kind = "attentions.0" if number == "1" else f"resnets.{int(number) // 2}"
        return f"mid_block.{kind}.{_part('.'.join(rest))}"
    if head not in ("input_blocks", "output_blocks"):
        return None
    slot, tail, index = int(rest[0]), ".".join(rest[1:]), int(number)
    per_level = RESNETS + 1
    level, layer = divmod(index - 1, per_level) if head == "input_blocks" else divmod(index, per_level)
    side = "down_blocks" if head == "input_blocks" else "up_blocks"
    if tail == "op":
        return f"{side}.{level}.downsamplers.0.conv"
    if tail == "conv" and level < levels - 1:
        return f"{side}.{level}.upsamplers.0.conv"
    return f"{side}.{level}.{'attentions' if slot else 'resnets'}.{layer}.{_part(tail)}"


def _part(tail: str) -> str:
    return _RESNET.get(tail, tail)


def with_dora(dora_scale: Tensor, weight: Tensor, change: Tensor) -> Tensor:
    """`weight_adapter/base.py weight_decompose`; over the output axis it takes the frozen weight's norm."""
    merged = weight + change
    if dora_scale.shape[0] == weight.shape[0]:
        norm = weight.reshape(weight.shape[0], -1).norm(dim=1, keepdim=True)
        norm = norm.reshape(weight.shape[0], *[1] * (weight.dim() - 1))
    else:
        norm = merged.transpose(0, 1).reshape(merged.shape[1], -1).norm(dim=1, keepdim=True)
        norm = norm.reshape(merged.shape[1], *[1] * (merged.dim() - 1)).transpose(0, 1)
    return merged * (dora_scale / (norm + torch.finfo(weight.dtype).eps))


def forge_version(metadata: Mapping[str, str]) -> str:
    """Forge's rule for the tag of a card: SD1 needs the architecture by its whole name."""
    architecture = metadata.get("modelspec.architecture", "")
    if architecture == "stable-diffusion-xl-v1-base/lora" or metadata.get("ss_base_model_version", "").startswith("sdxl_"):
        return "SDXL"
    if metadata.get("ss_v2") == "True":
        return "SD2"
    return "SD1" if architecture == "stable-diffusion-v1/lora" else "Unknown"
