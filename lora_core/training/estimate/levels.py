"""Levels of memory: what a training can keep or compute again, from the most memory to the least, each with its price.

All but the last lead to the same LoRA. Memory and arithmetic are counted (estimate.py); a level that was never counted is
left out, for what is known of it is only that it takes less than another.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_core.config import TrainConfig
from lora_core.models.architecture import Shapes
from lora_core.training.estimate import memory as estimate
from lora_core.training.estimate.memory import Size, Verdict

if TYPE_CHECKING:
    from lora_core.models.device import Device

PLAIN: dict[str, object] = {
    "lean_activations": True, "checkpointed_quarters": 0, "gradient_checkpointing": False, "eight_bit_base": False,
}  # fmt: skip
LEVELS: dict[str, dict[str, object]] = {
    "all": {**PLAIN, "lean_activations": False},
    "lean": PLAIN,
    "quarter": {**PLAIN, "checkpointed_quarters": 1},
    "half": {**PLAIN, "checkpointed_quarters": 2},
    "most": {**PLAIN, "checkpointed_quarters": 3},
    "again": {**PLAIN, "gradient_checkpointing": True},
    "eight_bit": {**PLAIN, "gradient_checkpointing": True, "eight_bit_base": True},
}


@dataclass(frozen=True)
class Level:
    """`needed`: bytes of the device, reserve included. `longer`: a step's arithmetic beside that of "lean", as a share.

    fits: the device has so much. is_now: what the training would run with, be it asked for or chosen to fit.
    """

    name: str
    changes: dict[str, object]
    needed: int
    longer: float
    fits: bool
    is_now: bool


def levels(
    config: TrainConfig, shapes: Shapes, device: Device, found: Verdict | None, sizes: Collection[Size] = ()
) -> Iterator[Level]:
    """The levels of a training on a device, of which `found` is known (`estimate.fits`); none where nothing is."""
    width = 4 if device.kind == "cpu" else 0
    plain = config.replace(**PLAIN)
    known = estimate.memory(plain, shapes, sizes, width)
    if found is None or known is None or not known.exact:
        return
    now, work = config.replace(**found.changes), estimate.arithmetic(plain, shapes, sizes, width)
    for name, changes in LEVELS.items():
        level = config.replace(**changes)
        memory = estimate.memory(level, shapes, sizes, width)
        if memory and memory.exact:
            needed = estimate.needed_on(device, memory)
            longer = max(0.0, estimate.arithmetic(level, shapes, sizes, width) / work - 1)
            is_now = all(getattr(now, setting) == value for setting, value in changes.items())
            yield Level(name, changes, needed, longer, needed <= found.has, is_now)
