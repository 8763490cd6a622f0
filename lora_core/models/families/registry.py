"""Which family a UNet belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lora_core.errors import UserError
from lora_core.models.families import sd1, sd2, sdxl
from lora_core.models.families.base import Family


def family_of(unet_config: Mapping[str, Any]) -> Family:
    """The family of a UNet by its config.

    Raises:
        UserError: none that Treino trains.
    """
    for family in (sd1.FAMILY, sd2.FAMILY, sdxl.FAMILY):
        if family.matches(unet_config):
            return family
    width = unet_config.get("cross_attention_dim")
    raise UserError(
        f"The base model is of a kind Treino cannot train (cross-attention width {width}, "
        f"{unet_config.get('in_channels')} input channels); take a Stable Diffusion 1.x, 2.x or XL base model, "
        "e.g. stable-diffusion-v1-5/stable-diffusion-v1-5."
    )
