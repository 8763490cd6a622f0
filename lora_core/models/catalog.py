"""The base models that are known by name: the starter that comes along, and the usual one of each family."""

from __future__ import annotations

from pathlib import Path

from lora_core.models.families.specs import FAMILIES

STARTER = "starter"  # the toy model that comes with Treino
STARTER_FOLDER = Path(__file__).parents[1] / "starter" / "model"
ASSETS = Path(__file__).parent / "families" / "assets"  # a folder each, in the diffusers layout without weights
BASES = {spec.name: spec.default_model for spec in FAMILIES.values()}
