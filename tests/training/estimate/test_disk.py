"""lora_core.training.estimate.disk against what a real run leaves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lora_core.models.architecture import shapes_of
from lora_core.training.estimate.disk import disk
from lora_core.training.estimate.memory import bytes_of


def test_disk_is_told_and_not_exceeded(ran: Any) -> None:
    config, plan, home = ran
    found = disk(config, plan, shapes_of("starter"))
    assert found
    run = sum(path.stat().st_size for path in (home / "out").rglob("*") if path.is_file())
    cache = sum(p.stat().st_size for p in (home / "cache").rglob("*.safetensors"))
    assert run <= found.run < run * 20 + 30_000_000
    assert cache / 2 < found.cache < cache


def test_long_captions_take_more_of_the_cache(ran: Any) -> None:
    config, plan, _ = ran
    shapes = shapes_of("starter")
    items = [replace(item, caption=f"{item.caption} {'zebu ' * 90}") for item in plan.training]
    long = replace(plan, training=items)
    asked = ((plan, 225), (long, 75), (long, 150))
    short, cut, whole = (disk(config.replace(max_token_length=length), each, shapes) for each, length in asked)
    assert short and cut and whole and short.cache == cut.cache
    states = 77 * 96 * bytes_of(config)
    assert whole.cache - cut.cache == states * len({item.caption for item in items})
