"""What makes a recipe fit the memory that is free on the device: settings to change, in the order of `estimate.ladder`.

What costs nothing but time is done without asking when the training starts (`estimate.fit`), so it is no part of a recipe.
"""

from __future__ import annotations

from collections.abc import Collection

from lora_core.config import TrainConfig
from lora_core.models.architecture import Shapes
from lora_core.recipes.facts import MachineFacts
from lora_core.training.estimate.ladder import ladder, together
from lora_core.training.estimate.memory import memory


def fits(config: TrainConfig, shapes: Shapes, machine: MachineFacts) -> bool:
    """Whether a training does, with all that costs nothing but time; also where its memory was never counted."""
    unasked: dict[str, object] = {}
    for step in ladder(config, machine.wrong):
        if step.same:
            unasked |= step.changes
    needed = memory(config.replace(**unasked), shapes, (), machine.number_bytes)
    return needed is None or machine.budget is None or machine.budget.needed(needed) <= machine.budget.has


def made_to_fit(
    config: TrainConfig, shapes: Shapes, machine: MachineFacts, kept: Collection[str] = ()
) -> dict[str, object]:
    """Settings to change so that it fits, none of `kept`: as few as do; all of them where nothing does. Empty on a device
    without memory of its own, which the system lends more of.
    """
    changes: dict[str, object] = {}
    if not machine.has_own_memory or fits(config, shapes, machine):
        return changes
    asked = (step for step in ladder(config, {*machine.wrong, *kept}) if not step.same)
    for changes in together(config, asked):
        if fits(config.replace(**changes), shapes, machine):
            break
    return changes
