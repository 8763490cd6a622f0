"""What the shapes of a LoRA tell: the family of its base model, and the layout each layer must have in the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from lora_core.lora.adapter import Adapter, Lora, LoraError
from lora_core.lora.dialects.modules import CONV_1X1, CONV_3X3, leaf


class UnknownFamilyError(LoraError):
    """A LoRA that may be for several families; a person has to say for which."""


FAMILIES = ("sd1", "sd2", "sdxl")
STARTER_WIDTH = 96
# Width of the text states: what attn2.to_k and to_v take in, and the text encoder's own width.
_CROSS_ATTENTION = {768: "sd1", STARTER_WIDTH: "sd1", 1024: "sd2", 2048: "sdxl"}
# Blocks that one build has and the other has not.
_ONLY_SDXL = re.compile(r"unet\.(?:up_blocks\.0\.attentions|.*\.transformer_blocks\.[1-9])")
_NEVER_SDXL = re.compile(
    r"unet\.(?:(?:down|up)_blocks\.3|down_blocks\.0\.attentions|down_blocks\.2\.downsamplers"
    r"|up_blocks\.2\.(?:attentions|upsamplers))"
)


def family_of(lora: Lora, metadata: Mapping[str, str] | None = None) -> str:
    """The family (sd1, sd2 or sdxl) by the widths, then by the blocks, then by what the metadata claim.

    Raises:
        UnknownFamilyError: nothing in it tells which.
        LoraError: it belongs to none.
    """
    widths = {int(a.down.shape[1]) for m, a in lora.items() if re.search(r"\.attn2\.to_[kv]$", m)}
    if len(widths) > 1 or widths - set(_CROSS_ATTENTION):
        raise LoraError(f"The LoRA is for no Stable Diffusion 1, 2 or XL model: its cross-attention is {widths} wide.")
    if widths:
        return _CROSS_ATTENTION[widths.pop()]
    if any(m.startswith("text_encoder_2.") for m in lora) or any(_ONLY_SDXL.match(m) for m in lora):
        return "sdxl"
    guess = _by_text_encoder(lora) or _by_projection(lora) or _claimed(metadata or {}) or _by_lone_text_encoder(lora)
    if guess is None:
        raise UnknownFamilyError("Nothing in the LoRA tells its base model; say it with --family sd1, sd2 or sdxl.")
    return guess


def _by_text_encoder(lora: Lora) -> str | None:
    """SDXL's first text encoder is SD1's, so its width alone decides nothing between those two."""
    shapes = [a.down.shape[1] for m, a in lora.items() if m.startswith("text_encoder.") and m.endswith("q_proj")]
    if 1024 in shapes:
        return "sd2"
    if (768 in shapes and any(_NEVER_SDXL.match(m) for m in lora)) or STARTER_WIDTH in shapes:
        return "sd1"
    return None


def _by_lone_text_encoder(lora: Lora) -> str | None:
    """Trainers of SDXL adapt both text encoders or none, so the first one alone is SD1's."""
    is_alone = all(m.startswith("text_encoder.") for m in lora)
    widths = {a.down.shape[1] for m, a in lora.items() if m.endswith(("_proj", "fc1"))}
    return "sd1" if is_alone and widths == {768} else None


def _by_projection(lora: Lora) -> str | None:
    """proj_in and proj_out are 1x1 convolutions in SD1 and linear in SD2, where both have the blocks SDXL lacks."""
    layers = [a.down.dim() for m, a in lora.items() if re.search(r"\.proj_(?:in|out)$", m)]
    if 4 in layers:
        return "sd1"
    return "sd2" if layers and any(_NEVER_SDXL.match(m) for m in lora) else None


def _claimed(metadata: Mapping[str, str]) -> str | None:
    version, architecture = metadata.get("ss_base_model_version", ""), metadata.get("modelspec.architecture", "")
    if version.startswith("sdxl_") or architecture.startswith("stable-diffusion-xl"):
        return "sdxl"
    if metadata.get("ss_v2") == "True" or architecture.startswith("stable-diffusion-v2"):
        return "sd2"
    return "sd1" if version.startswith("sd_v1") or architecture.startswith("stable-diffusion-v1") else None


def is_toy(lora: Lora) -> bool:
    """Whether it was made for the bundled starter or another toy: real layers are all multiples of 64 wide."""
    return any(a.up.shape[0] % 64 for a in lora.values())


def fit(lora: Lora, family: str) -> Lora:
    """The same LoRA with every layer 2-D or 4-D as that family's model has it; 1x1 convolutions come in both ways.

    Raises:
        LoraError: a layer that can be neither, or whose matrices do not fit each other.
    """
    return {module: _fit(module, adapter, family) for module, adapter in lora.items()}


def is_convolution(module: str, family: str) -> bool:
    kind = leaf(module)
    return kind in (*CONV_1X1, *CONV_3X3, "conv_in", "conv_out") or (kind in ("proj_in", "proj_out") and family == "sd1")


def _fit(module: str, adapter: Adapter, family: str) -> Adapter:
    wanted = 4 if is_convolution(module, family) else 2
    down, up, scale = adapter.down, adapter.up, adapter.dora_scale
    if down.shape[0] != up.shape[1] or not down.shape[0]:
        raise LoraError(f"The matrices for {module} do not fit each other: {list(down.shape)} and {list(up.shape)}.")
    if any(side != 1 for side in (*down.shape[2:], *up.shape[2:])) and wanted == 2:
        raise LoraError(f"{module} is a linear layer in {family}, but the LoRA holds a convolution for it.")
    if leaf(module) in CONV_3X3 and down.dim() != 4:
        raise LoraError(f"{module} is a 3x3 convolution, but the LoRA holds a linear layer for it.")
    if scale is not None:
        if scale.numel() not in (up.shape[0], down.shape[1]):
            raise LoraError(f"The dora_scale of {module} fits neither its inputs nor its outputs.")
        scale = _as(scale, wanted)
    return replace(adapter, down=_as(down, wanted), up=_as(up, wanted), dora_scale=scale)


def _as(tensor: Tensor, dimensions: int) -> Tensor:
    if tensor.dim() == dimensions:
        return tensor
    return tensor[..., None, None] if dimensions == 4 else tensor.flatten(1)


def check_fits(lora: Lora, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Compare with the base model's weights, given by module name ("unet.<path>").

    Raises:
        LoraError: a module the model has not, or a layer of another size.
    """
    for module, adapter in lora.items():
        if module not in shapes:
            raise LoraError(f"The base model has no {module}; the LoRA was made for another one.")
        shape = shapes[module]
        mine = (adapter.up.shape[0], *adapter.down.shape[1:])
        if mine != tuple(shape):
            raise LoraError(f"{module} is {list(shape)} in the base model, but {list(mine)} in the LoRA.")
