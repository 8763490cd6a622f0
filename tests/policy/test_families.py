"""What differs between families stands in lora_core/models/families alone: elsewhere no code asks which one it is."""

from __future__ import annotations

import ast

from lora_core.models.families.specs import FAMILIES
from tests import ROOT

CORE = ROOT / "lora_core"
INSIDE = CORE / "models" / "families"


def test_no_code_outside_names_a_family() -> None:
    named = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted(CORE.rglob("*.py"))
        if not path.is_relative_to(INSIDE)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in FAMILIES
    ]
    assert named == []


def test_every_family_has_its_settings_and_its_functions() -> None:
    from lora_core.models.architecture import of_family
    from lora_core.models.families.registry import family_of

    for name, spec in FAMILIES.items():
        shapes = of_family(name)
        assert family_of(shapes.unet).spec is spec
        assert set(shapes.text_encoders) == set(spec.text_encoders)
        assert shapes.unet["cross_attention_dim"] == spec.widths[0]
        assert shapes.text_encoders["text_encoder"]["hidden_size"] == spec.text_widths[0]
        assert shapes.unet["sample_size"] * shapes.pixels_per_latent == spec.resolution
