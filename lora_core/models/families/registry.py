"""Which family a UNet belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lora_core.errors import UserError
from lora_core.models.families import sd1, sd2, sdxl
from lora_core.models.families.base import Family
from lora_core.models.families.specs import SD1


def family_of(unet_config: Mapping[str, Any]) -> Family:
    """The family of a UNet by its config.

    Raises:
        UserError: none that Treino trains.
    """
    for family in (sd1.FAMILY, sd2.FAMILY, sdxl.FAMILY):
        if family.matches(unet_config):
            return family
    width, channels = unet_config.get("cross_attention_dim"), unet_config.get("in_channels")
    raise UserError("models.odd_unet", width=width, channels=channels, example=SD1.default_model)
