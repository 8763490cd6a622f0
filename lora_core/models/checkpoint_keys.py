"""Where a weight of diffusers' and transformers' models stands in a single file: its name there, and how it lies there.

Pure, from name to places to look, the likely one first. UNet and VAE: CompVis' ldm and Stability's sgm; text encoders:
transformers' CLIP as ldm wraps it (SD 1.x, SDXL's first), OpenCLIP (SD 2.x, SDXL's second).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from lora_core.models.identify import EMA_PREFIX, TEXT_PREFIXES, VAE_PREFIXES, Unet
from lora_core.models.unet_keys import to_original


class Place(NamedTuple):
    """A tensor's name in the file; `third`: only this third of its rows (OpenCLIP keeps q, k and v in one)."""

    name: str
    third: int | None = None
    transposed: bool = False


def of_unet(name: str, unet: Unet) -> list[Place]:
    """Places of a UNet's weight, named as diffusers does."""
    if not unet.original:
        return [Place(unet.prefix + name)]
    path, _, kind = name.rpartition(".")
    names = [f"{to_original(path)}.{kind}"]
    if match := re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.conv", path):
        names.append(f"output_blocks.{3 * int(match[1]) + 2}.1.conv.{kind}")  # a level without attention
    if unet.ema_only:
        return [Place(f"{EMA_PREFIX}diffusion_model{found.replace('.', '')}") for found in names]
    return [Place(unet.prefix + found) for found in names]


_VAE_ATTENTION = {
    "group_norm": ("norm", "group_norm"), "to_q": ("q", "query"), "to_k": ("k", "key"), "to_v": ("v", "value"),
    "to_out.0": ("proj_out", "proj_attn"),
}  # fmt: skip


def of_vae(name: str, levels: int) -> list[Place]:
    """Places of a VAE's weight; `levels` is how many block_out_channels it has. Also files that diffusers wrote."""
    path, _, kind = name.rpartition(".")
    attention = re.fullmatch(r"((?:en|de)coder)\.mid_block\.attentions\.0\.(.+)", path)
    if attention:
        original, older = _VAE_ATTENTION[attention[2]]
        names = [f"{attention[1]}.mid.attn_1.{original}.{kind}", f"{attention[1]}.mid_block.attentions.0.{older}.{kind}"]
    else:
        names = [f"{_vae_original(path, levels)}.{kind}"]
    return [Place(prefix + found) for prefix in (*VAE_PREFIXES, "") for found in (*names, name)]


def _vae_original(path: str, levels: int) -> str:
    path = path.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    path = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", path)
    path = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", path)
    path = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", path)
    path = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", path)
    return re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", path)


_OPEN_CLIP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight", "final_layer_norm.bias": "ln_final.bias",
}  # fmt: skip
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip
_THIRDS = {"self_attn.q_proj": 0, "self_attn.k_proj": 1, "self_attn.v_proj": 2}


def of_text_encoder(name: str, component: str) -> list[Place]:
    """Places of a CLIP text encoder's weight; transformers 5 leaves "text_model." out of names that files have.

    Also of files that transformers wrote.
    """
    name = name.removeprefix("text_model.")
    places = []
    for prefix in TEXT_PREFIXES[component]:
        places += [Place(f"{prefix}transformer.text_model.{name}"), Place(f"{prefix}transformer.{name}")]
        places += [place._replace(name=f"{prefix}model.{place.name}") for place in _open_clip(name)]
    return [*places, Place(f"text_model.{name}"), Place(name)]  # in files of transformers


def _open_clip(name: str) -> list[Place]:
    if name == "text_projection.weight":
        return [Place("text_projection", transposed=True), Place("text_projection.weight")]
    match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    if not match:
        return [Place(_OPEN_CLIP[name])]
    block, path, kind = f"transformer.resblocks.{match[1]}", match[2], match[3]
    if path in _THIRDS:
        return [Place(f"{block}.attn.in_proj_{kind}", third=_THIRDS[path])]
    return [Place(f"{block}.{_OPEN_CLIP_LAYER[path]}.{kind}")]
