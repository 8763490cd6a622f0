"""Whether a training fits its device, what is done about it unasked, and what to change if that is not enough."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from lora_core.config import TrainConfig
from lora_core.errors import UserError
from lora_core.messages import Message
from lora_core.models import computer
from lora_core.models.architecture import Shapes, of_model, shapes_of
from lora_core.models.device import Compute, Device, choose, devices, smallest_for
from lora_core.models.families.base import BaseModel
from lora_core.system import windows
from lora_core.training.estimate.budget import Budget
from lora_core.training.estimate.ladder import changes_to, ladder, together
from lora_core.training.estimate.memory import RESERVE_BYTES, Memory, Size, arithmetic, bytes_of, memory
from lora_core.training.estimate.proven import with_graphs_settled

NOTICEABLE = 0.05  # of what a training was thought to need beside the weights: less is not worth another start
# By what the check of this computer found wrong: settings that are then not advised, nor taken unasked.
NEEDS = {"recomputed": {"checkpointed_quarters", "gradient_checkpointing"}, "eight_bit": {"eight_bit_base"}}
SURE = {"gradient_checkpointing", "train_batch_size", "eight_bit_base", "resolution"}  # save much, counted or not


@dataclass(frozen=True)
class Remedy:
    """Settings to change, and the memory they lead to."""

    changes: dict[str, object]
    memory: Memory


@dataclass(frozen=True)
class Fit:
    """Whether a training fits a device. `has`: the bytes it may take there. `remedies`: of least harm first; each holds
    the changes of those before it, and the last one fits unless nothing does.

    changes: what makes it fit, costs nothing but time, and is made without asking; `needed` is with it, `whole` without.
    budget: what of the device was planned with.
    longer: that time, as a share of the step's arithmetic; 0 where only what is cheap is computed again.
    """

    fits: bool
    needed: int
    has: int
    remedies: tuple[Remedy, ...] = ()
    changes: Mapping[str, object] = field(default_factory=dict)
    whole: int = 0
    longer: float = 0.0
    budget: Budget = field(default_factory=partial(Budget, 0))


def fits(
    config: TrainConfig, shapes: Shapes, device: Device, sizes: Collection[Size] = (), number_bytes: int = 0
) -> Fit | None:
    """Whether a training fits a device, and which steps of the ladder to take if not; None: its memory is not known.

    Of a card what is free at this moment counts; of a device without memory of its own, all of the computer's. On a
    card, what costs nothing but time is changed unasked, no more of it than needed. `sizes`: the pictures', in pixels.
    `number_bytes`: of the frozen model; 0: as asked for, 4 on the CPU.
    """
    width = number_bytes or (4 if device.kind == "cpu" else 0)
    config = with_graphs_settled(config, shapes, device, width or bytes_of(config), sizes)
    now = memory(config, shapes, sizes, width)
    if now is None:
        return None
    budget = Budget.of(device)
    has, needed = budget.has, budget.needed(now)
    if needed <= has:
        return Fit(True, needed, has, whole=needed, budget=budget)
    unasked = (step for step in ladder(config, found_wrong(device)) if step.same and device.bytes)
    for changes in together(config, unasked):
        less = memory(config.replace(**changes), shapes, sizes, width)
        if less and budget.needed(less) <= has:
            work = [arithmetic(asked, shapes, sizes, width) for asked in (config.replace(**changes), config)]
            return Fit(True, budget.needed(less), has, (), changes, needed, max(0.0, work[0] / work[1] - 1), budget)
    remedies: list[Remedy] = []
    for remedy in _remedies(config, shapes, device, sizes, width):
        remedies.append(remedy)
        if budget.needed(remedy.memory) <= has:
            break
    return Fit(False, needed, has, tuple(remedies), whole=needed, budget=budget)


def _remedies(config: TrainConfig, shapes: Shapes, device: Device, sizes: Collection[Size], width: int) -> Iterator[Remedy]:
    """The steps that a person can be asked for and that save memory, each with those before it."""
    changes: dict[str, object] = {}
    least = memory(config, shapes, sizes, width)
    for step in ladder(config, found_wrong(device)):
        if step.fine or ("optimizer_on_host" in step.changes and not device.bytes):
            continue  # of a device without memory of its own the optimizer is there already
        more = changes_to(config, {**changes, **step.changes})
        less = memory(config.replace(**more), shapes, _scaled(sizes, config, more), width)
        if less is None:
            continue  # what was never counted is not advised, and what comes after it does without
        changes = more
        if least is None or less.total < least.total:
            least = less
            yield Remedy(changes, less)


def found_wrong(device: Device) -> frozenset[str]:
    """Settings that the check of this computer found wrong on a device."""
    found = computer.known(device)
    return frozenset(name for part, names in NEEDS.items() if found and getattr(found, part) is False for name in names)


def device_of(compute: Compute) -> Device | None:
    """The device of this computer that is computed on."""
    return next((device for device in devices() if device.name == str(compute.device)), None)


def fitted(config: TrainConfig, shapes: Shapes, compute: Compute, sizes: Collection[Size] = ()) -> TrainConfig:
    """The settings as they run: graphs on or off, and what makes the training fit its card and costs nothing but time."""
    device = device_of(compute)
    if device is None:
        return config
    found = _on_card(config, shapes, compute, sizes)
    return as_it_runs(config, shapes, device, found, sizes, compute.dtype.itemsize)


def as_it_runs(
    config: TrainConfig, shapes: Shapes, device: Device, found: Fit | None, sizes: Collection[Size], number_bytes: int
) -> TrainConfig:
    """`fitted`, where it is known already whether the training fits its device."""
    settled = with_graphs_settled(config, shapes, device, number_bytes, sizes)
    return settled.replace(**found.changes) if found else settled


def after_failure(config: TrainConfig) -> dict[str, object]:
    """What to change after there was not enough memory, whatever was thought before: the first steps of the ladder that
    save a noticeable part; of a training that was never counted the next one that saves much of any. Empty: none is left.
    """
    steps = (step.changes for step in ladder(config) if not step.fine and SURE & step.changes.keys())
    return _noticeably_less(config) or changes_to(config, next(steps, {}))


def _noticeably_less(config: TrainConfig) -> dict[str, object]:
    """The changes that bring a training below what it was thought to need; empty where that is not known."""
    try:
        shapes, compute = shapes_of(config.pretrained_model_name_or_path), choose(config.device, config.mixed_precision)
    except UserError:
        return {}
    device, width = device_of(compute), compute.dtype.itemsize
    found = fits(config, shapes, device, (), width) if device else None
    ran = as_it_runs(config, shapes, device, found, (), width) if device else config
    now = memory(ran, shapes, (), width)
    if device is None or found is None or now is None:
        return {}
    enough = min(found.has, found.needed - NOTICEABLE * (now.total - now.weights))
    changes: dict[str, object] = {}
    for remedy in _remedies(ran, shapes, device, (), width):
        changes = changes_to(config, {**found.changes, **remedy.changes})
        if found.budget.needed(remedy.memory) <= enough:
            break
    return changes


def notice(model: BaseModel, config: TrainConfig, compute: Compute, sizes: Collection[Size] = ()) -> Message | None:
    """What to say when the chosen card is too small: the smallest one here that is not, what is done about it, or what to
    change; None when it is enough, or when what the training takes was never counted. `sizes`: the pictures', in pixels.
    """
    found = _on_card(config, of_model(model), compute, sizes)
    if found is None or (found.fits and not found.changes):
        return None
    here = devices()
    card = next(device for device in here if device.name == str(compute.device))
    # Of another card nobody asks what is free: the question alone would take memory there.
    other = smallest_for(found.whole + RESERVE_BYTES - found.budget.reserve, [each for each in here if each is not card])
    advice: list[Message] = [_recomputed(found)] if found.fits else []
    if other:
        key = "training.memory_other_as_it_is" if found.fits else "training.memory_other"
        advice.append(Message(key, card=str(other), name=other.name))
    elif not found.fits:
        advice.append(_advice(found))
    both = advice[0] if len(advice) == 1 else Message("training.memory_both", done=advice[0], other=advice[1])
    if found.budget.others is None:
        return Message("training.memory_needs", needed=found.whole / 2**30, card=str(card), advice=both)
    free = {"free": found.has / 2**30, "taken": found.budget.others / 2**30}
    return Message("training.memory_needs_free", needed=found.whole / 2**30, card=str(card), **free, advice=both)


def page_file_notice(
    model: BaseModel, config: TrainConfig, compute: Compute, sizes: Collection[Size] = ()
) -> Message | None:
    """What to say before Windows' page file turns out too small; None where it will do, or the need was never counted."""
    found = memory(config, of_model(model), sizes, compute.dtype.itemsize)
    return windows.page_file_notice(found.total + found.host + RESERVE_BYTES) if found else None


def flags(changes: Mapping[str, object]) -> str:
    """Changes as they are typed: "--gradient_checkpointing --train_batch_size 2"."""
    return " ".join(f"--{name}" if value is True else f"--{name} {value}" for name, value in changes.items())


def _on_card(config: TrainConfig, shapes: Shapes, compute: Compute, sizes: Collection[Size]) -> Fit | None:
    """Whether a training fits the card it is to run on; None: it was never counted, or it runs on no card."""
    card = device_of(compute)
    return fits(config, shapes, card, sizes, compute.dtype.itemsize) if card and card.bytes else None


def _recomputed(found: Fit) -> Message:
    quarters = found.changes.get("checkpointed_quarters")
    part = {1: "quarter", 2: "half", 3: "most"}.get(quarters, "") if isinstance(quarters, int) else ""
    part = part or ("all" if found.changes.get("gradient_checkpointing") else "cheap")
    more = Message("training.memory_longer", share=found.longer) if found.longer else ""
    return Message("training.memory_recomputed", part=Message(f"training.memory_part_{part}"), needed=found.needed / 2**30,
                   more=more)  # fmt: skip


def _advice(found: Fit) -> Message:
    if not found.remedies:
        return Message("training.memory_no_setting")
    last = found.remedies[-1]
    needed = found.budget.needed(last.memory)
    key = "training.memory_remedy_fits" if needed <= found.has else "training.memory_remedy_nearest"
    return Message(key, flags=flags(last.changes), needed=needed / 2**30)


def _scaled(sizes: Collection[Size], config: TrainConfig, changes: Mapping[str, object]) -> list[Size]:
    resolution = changes.get("resolution", config.resolution)
    assert isinstance(resolution, int)
    share = resolution / config.resolution
    return [(round(width * share), round(height * share)) for width, height in sizes]
