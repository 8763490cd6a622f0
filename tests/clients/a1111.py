"""AUTOMATIC1111 (extensions-builtin/Lora): names made into those of the original code, then looked up there.

Its text encoders are transformers' CLIP for SD1 and SDXL's first, and OpenCLIP for SD2 and SDXL's second, where q, k
and v share one module. Returned are names of the original UNet, and for text "<which>:<layer>:<part>".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from tests.clients.original import Module

_RESNET = {
    "conv1": "in_layers_2", "conv2": "out_layers_3", "time_emb_proj": "emb_layers_1",
    "conv_shortcut": "skip_connection",
}  # fmt: skip
_TEXT_PARTS = {
    "self_attn_q_proj", "self_attn_k_proj", "self_attn_v_proj", "self_attn_out_proj", "mlp_fc1", "mlp_fc2",
}  # fmt: skip


class A1111:
    """`modules`: the UNet it has loaded. The key is cut at its first dot."""

    def __init__(self, family: str, modules: Sequence[Module], layers: Mapping[str, int]) -> None:
        self.family, self.layers = family, layers
        self.unet = {"diffusion_model_" + module.path.replace(".", "_"): module.path for module in modules}

    def resolve(self, name: str) -> str | None:
        if name.startswith("lora_te"):
            return self._text(name)
        path = self.unet.get(_to_original(name))
        # SDXL files already have the original names.
        return path or self.unet.get(name.replace("lora_unet_", "diffusion_model_", 1))

    def _text(self, name: str) -> str | None:
        match = re.fullmatch(r"lora_te(|1|2)_text_model_encoder_layers_(\d+)_(\w+)", name)
        if not match or match[3] not in _TEXT_PARTS:
            return None
        which = "text_encoder_2" if match[1] == "2" else "text_encoder"
        is_for_this = (match[1] == "") == (self.family != "sdxl") or (self.family == "sd1" and match[1] == "1")
        return f"{which}:{match[2]}:{match[3]}" if is_for_this and int(match[2]) < self.layers.get(which, 0) else None


def _to_original(name: str) -> str:
    if match := re.fullmatch(r"lora_unet_down_blocks_(\d+)_(attentions|resnets)_(\d+)_(.+)", name):
        block, kind, layer, rest = int(match[1]), match[2], int(match[3]), match[4]
        return f"diffusion_model_input_blocks_{1 + 3 * block + layer}_{_slot(kind)}_{_rest(kind, rest)}"
    if match := re.fullmatch(r"lora_unet_mid_block_(attentions|resnets)_(\d+)_(.+)", name):
        slot = 1 if match[1] == "attentions" else 2 * int(match[2])
        return f"diffusion_model_middle_block_{slot}_{_rest(match[1], match[3])}"
    if match := re.fullmatch(r"lora_unet_up_blocks_(\d+)_(attentions|resnets)_(\d+)_(.+)", name):
        block, kind, layer, rest = int(match[1]), match[2], int(match[3]), match[4]
        return f"diffusion_model_output_blocks_{3 * block + layer}_{_slot(kind)}_{_rest(kind, rest)}"
    if match := re.fullmatch(r"lora_unet_down_blocks_(\d+)_downsamplers_0_conv", name):
        return f"diffusion_model_input_blocks_{3 + 3 * int(match[1])}_0_op"
    if match := re.fullmatch(r"lora_unet_up_blocks_(\d+)_upsamplers_0_conv", name):
        return f"diffusion_model_output_blocks_{2 + 3 * int(match[1])}_{2 if int(match[1]) else 1}_conv"
    return name


def _slot(kind: str) -> int:
    return 1 if kind == "attentions" else 0


def _rest(kind: str, rest: str) -> str:
    return _RESNET.get(rest, rest) if kind == "resnets" else rest


def delta(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """The change of a weight (`network_lora.py`): matrices multiplied flat, times alpha/rank, or 1 without alpha."""
    up, down = tensors[f"{name}.lora_up.weight"].float(), tensors[f"{name}.lora_down.weight"].float()
    alpha = tensors.get(f"{name}.alpha")
    scale = alpha.item() / down.shape[0] if alpha is not None else 1.0
    return (up.flatten(1) @ down.flatten(1)).reshape(shape) * scale


def with_dora(tensors: Mapping[str, Tensor], name: str, weight: Tensor) -> Tensor:
    """The weight under a DoRA (`network.py apply_weight_decompose`, 1.9 on): the norm of every input's column."""
    merged = weight + delta(tensors, name, tuple(weight.shape))
    norm = merged.transpose(0, 1).reshape(merged.shape[1], -1).norm(dim=1, keepdim=True)
    norm = norm.reshape(merged.shape[1], *[1] * (merged.dim() - 1)).transpose(0, 1)
    return merged * (tensors[f"{name}.dora_scale"] / norm)


def detect_version(metadata: Mapping[str, str]) -> str:
    """`network.py detect_version`."""
    if str(metadata.get("ss_base_model_version", "")).startswith("sdxl_"):
        return "SDXL"
    if str(metadata.get("ss_v2", "")) == "True":
        return "SD2"
    return "SD1" if metadata else "Unknown"


def read_metadata(header: Mapping[str, str]) -> dict[str, object]:
    """`sd_models.read_metadata_from_safetensors`: values that begin with a brace become objects."""
    import json

    return {key: json.loads(value) if value[:1] == "{" else value for key, value in header.items()}
