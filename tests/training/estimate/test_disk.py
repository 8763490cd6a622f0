"""lora_core.training.estimate.disk against what a real run leaves."""

from __future__ import annotations

from typing import Any

from lora_core.models.architecture import shapes_of
from lora_core.training.estimate.disk import disk


def test_disk_is_told_and_not_exceeded(ran: Any) -> None:
    config, plan, home = ran
    found = disk(config, plan, shapes_of("starter"))
    assert found
    run = sum(path.stat().st_size for path in (home / "out").rglob("*") if path.is_file())
    cache = sum(p.stat().st_size for p in (home / "cache").rglob("*.safetensors"))
    assert run <= found.run < run * 20 + 30_000_000
    assert cache / 2 < found.cache < cache
