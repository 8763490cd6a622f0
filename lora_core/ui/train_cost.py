"""What a training needs of this machine, in words: memory against what the device has, room on the disk.

Only what `estimate` has counted is told; where it has not, nothing is said.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_core.config import Preset, TrainConfig
from lora_core.errors import UserError

if TYPE_CHECKING:
    from lora_core.estimate import Verdict
    from lora_core.plan import Plan
    from lora_core.ui.texts import Texts


@dataclass(frozen=True)
class Cost:
    """A training's needs on the device it would run on; None: not known."""

    memory: Verdict | None
    disk_bytes: int | None


def cost(config: TrainConfig, plan: Plan | None = None) -> Cost:
    """The cost of a training; with its plan also of its pictures' sizes and the disk. Needs torch, for the device."""
    from lora_core import estimate, precision
    from lora_core.estimate_shapes import shapes_of

    try:
        shapes = shapes_of(config.pretrained_model_name_or_path)
        chosen = precision.choose(config.device, config.mixed_precision).device
    except UserError:  # told where the setting is
        return Cost(None, None)
    device = next(found for found in precision.devices() if found.kind == chosen.type)
    memory = estimate.fits(config, shapes, device, list(plan.buckets) if plan else ())
    disk = estimate.disk(config, plan, shapes) if plan else None
    return Cost(memory, disk.total if disk else None)


class CardCosts:
    """The costs of the preset cards, worked out once in a thread of its own when the core is there."""

    def __init__(self) -> None:
        self._known: dict[str, Cost] | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def of(self, presets: Mapping[str, Preset]) -> dict[str, Cost] | None:
        """The costs by card, or None while they are worked out."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, args=(dict(presets),), name="costs", daemon=True)
                self._thread.start()
        return self._known

    def _work(self, presets: Mapping[str, Preset]) -> None:
        known = {}
        for name, preset in presets.items():
            try:
                known[name] = cost(TrainConfig.of(preset.values))
            except UserError:  # a preset of one's own with wrong values: told when it is chosen
                continue
        self._known = known


def memory_line(found: Verdict, text: Texts) -> str:
    """Memory against what there is; where it does not fit, the settings that would make it."""
    need, have = text.size(found.needed), text.size(found.has)
    if found.changes:
        whole, longer = text.size(found.whole), text.number(round(100 * found.longer))
        return text("train.plan_memory_recomputed", need=need, have=have, whole=whole, longer=longer)
    if found.fits:
        return text("train.plan_memory_of", need=need, have=have)
    if not found.remedies:
        return text("train.plan_memory_over", need=need, have=have)
    changes = changes_text(found.remedies[-1].changes, text)
    return text("train.plan_memory_remedy", need=need, have=have, changes=changes)


def card_line(found: Verdict, text: Texts) -> str:
    return text("train.card_fits" if found.fits else "train.card_over", need=text.size(found.needed))


def changes_text(changes: Mapping[str, object], text: Texts) -> str:
    """Settings with their new values, as the form calls them."""
    return ", ".join(
        text(f"settings.{name}") if value is True else f"{text(f'settings.{name}')} {value}"
        for name, value in changes.items()
    )
