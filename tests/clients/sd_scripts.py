"""sd-scripts (`networks/lora.py`): the names it would give its own modules; a key of another name is dropped."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from tests.clients.original import unet_modules

_OWNERS = ("Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D")


def names(family: str, unet: nn.Module, config: Mapping[str, Any], layers: Mapping[str, int]) -> dict[str, str]:
    """Name in a file -> diffusers' path (SDXL: the original one), for text "<which>:<layer>:<part>"."""
    found = {"lora_unet_" + path.replace(".", "_"): path for path in _unet_paths(family, unet, config)}
    for which, count in layers.items():
        prefix = "lora_te" if family != "sdxl" else "lora_te1" if which == "text_encoder" else "lora_te2"
        for layer in range(count):
            for part in (
                "self_attn_q_proj",
                "self_attn_k_proj",
                "self_attn_v_proj",
                "self_attn_out_proj",
                "mlp_fc1",
                "mlp_fc2",
            ):
                found[f"{prefix}_text_model_encoder_layers_{layer}_{part}"] = f"{which}:{layer}:{part}"
    return found


def _unet_paths(family: str, unet: nn.Module, config: Mapping[str, Any]) -> Iterator[str]:
    """Its UNet of SD1 and SD2 is named as diffusers', its UNet of SDXL as the original."""
    if family == "sdxl":
        yield from (module.path for module in unet_modules(config))
        return
    for path, owner in unet.named_modules():
        if type(owner).__name__ in _OWNERS:
            for inner, module in owner.named_modules():
                if isinstance(module, nn.Linear | nn.Conv2d):
                    yield f"{path}.{inner}"


def hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[str, str]:
    """`train_util.precalculate_safetensors_hashes`: (model hash, legacy hash) of a file with the ss_ metadata only."""
    kept = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    file = BytesIO(safetensors.torch.save(dict(tensors), kept))
    length = int.from_bytes(file.read(8), "little")
    model = hashlib.sha256()
    file.seek(length + 8)
    while block := file.read(1024 * 1024):
        model.update(block)
    file.seek(0x100000)
    return model.hexdigest(), hashlib.sha256(file.read(0x10000)).hexdigest()[:8]
