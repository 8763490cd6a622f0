"""lora_core.models.architecture: the shapes of a base model from its settings, its name or its family."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_core.errors import UserError
from lora_core.models.architecture import Shapes, of_family, shapes_of


@pytest.mark.parametrize(
    ("name", "family", "certain"),
    [
        ("runwayml/stable-diffusion-v1-5", "sd1", True), ("stabilityai/stable-diffusion-2-1", "sd2", True),
        ("stabilityai/stable-diffusion-xl-base-1.0", "sdxl", True), ("someone/juggernautXL", "sdxl", False),
        ("someone/dreams", "sd1", False),
    ],
)  # fmt: skip
def test_a_model_still_on_the_hub_counts_as_of_its_family(name: str, family: str, certain: bool) -> None:
    shapes = shapes_of(name)
    assert (shapes.family, shapes.certain, shapes.here) == (family, certain, False)


def test_a_folder_is_read_and_nonsense_refused(tiny_sd1: Path) -> None:
    assert shapes_of(str(tiny_sd1)).here and shapes_of(str(tiny_sd1)).unet_key() != shapes_of("starter").unet_key()
    with pytest.raises(UserError, match="no such file"):
        shapes_of("no model")


def test_settings_written_out_in_full_are_the_same_model() -> None:
    """As diffusers saves a config: every default is in it."""
    short = of_family("sd1")
    full = {**short.unet, "mid_block_type": "UNetMidBlock2DCrossAttn", "num_attention_heads": None, "sample_size": 96}
    assert Shapes("sd1", full, short.text_encoders, short.vae).unet_key() == short.unet_key()
