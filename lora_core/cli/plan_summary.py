"""The plan of a training in a few short lines, as a terminal shows it before the first step."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

from lora_core.config import TrainConfig, toml
from lora_core.messages import Message
from lora_core.models.device import Compute
from lora_core.recipes import Recipe
from lora_core.system.units import duration, memory_size
from lora_core.training.data.plan import Plan
from lora_core.training.estimate.cost import Estimate, estimate
from lora_core.training.estimate.memory import Memory


def lines(config: TrainConfig, plan: Plan, compute: Compute) -> list[Message]:
    """What is trained, and what it will need as far as that is known by now."""
    trained, held = len(plan.training), len(plan.validation)
    pictures = Message("cli.plan_held", count=trained, held=held) if held else Message("cli.plan_pictures", count=trained)
    sizes = Message("cli.plan_size" if len(plan.buckets) == 1 else "cli.plan_sizes", count=len(plan.buckets))
    key = "cli.plan" if plan.epochs >= 10 else "cli.plan_few_epochs"
    told = [Message(key, pictures=pictures, sizes=sizes, steps=plan.steps, epochs=plan.epochs)]
    if needs := list(_needs(estimate(config, plan, compute), compute.device.type == "cpu")):
        listed = reduce(lambda before, more: Message("cli.plan_and", before=before, more=more), needs)
        told.append(Message("cli.plan_needs", needs=listed))
    return told


def of_recipe(found: Recipe, config: TrainConfig) -> Message:
    """A recipe in a line: what was wanted, and how long it trains."""
    chosen = found.choices.get("max_train_steps")
    steps = chosen.reason if chosen else Message("cli.steps", steps=config.max_train_steps)
    return Message("cli.recipe", intent=found.intent, steps=steps)


def reasons(found: Recipe, given: Mapping[str, object]) -> list[Message]:
    """Each setting of a recipe as a preset's file has it, with its reason beside it; then those that were given."""
    told = [
        Message("cli.reason", name=name, value=toml(choice.value), reason=choice.reason)
        for name, choice in found.choices.items()
    ]
    return [*told, *(Message("cli.set_by_hand", name=name, value=toml(value)) for name, value in given.items())]


def _needs(found: Estimate, is_cpu: bool) -> list[Message]:
    told = [_memory(found.memory, found.certain, is_cpu)] if found.memory else []
    budget = found.fit.budget if found.fit else None
    if budget and budget.others is not None:
        told.append(Message("cli.plan_memory_free", free=memory_size(budget.has), taken=memory_size(budget.others)))
    if budget and budget.ratio != 1:
        told.append(Message("cli.plan_memory_ratio", share=budget.ratio))
    if found.disk:
        told.append(Message("cli.plan_disk", size=memory_size(found.disk.total)))
    if found.time:
        key = "cli.plan_time_rough" if found.time.rough else "cli.plan_time"
        told.append(Message(key, time=duration(found.time.seconds)))
        parts = [Message(f"cli.plan_part_{name}", share=share) for name, share in found.time.shares.items() if share]
        if parts:
            listed = reduce(lambda before, more: Message("cli.plan_and", before=before, more=more), parts)
            told.append(Message("cli.plan_time_beside", parts=listed))
    elif not is_cpu and found.is_base_known:
        told.append(Message("cli.plan_time_later"))
    return told


def _memory(found: Memory, is_certain: bool, is_cpu: bool) -> Message:
    size = memory_size(found.total + (found.host if is_cpu else 0))
    if not (found.exact and is_certain):
        size = Message("cli.plan_at_most" if is_certain else "cli.plan_probably", size=size)
    if is_cpu:
        return Message("cli.plan_memory_beside", size=size)
    if card := found.smallest_card_gb:
        return Message("cli.plan_memory_card", size=size, card=card)
    return Message("cli.plan_memory", size=size)
