from __future__ import annotations

from lora_core.lora.shapes import FAMILIES
from lora_core.models.catalog import BASES, STARTER
from lora_core.models.hub.client import canonical, is_repo_id


def test_every_family_has_a_base_model_that_is_where_it_says() -> None:
    assert set(BASES) == set(FAMILIES)
    assert all(is_repo_id(base) and canonical(base) == (base, None) for base in BASES.values())
    assert not is_repo_id(STARTER)
