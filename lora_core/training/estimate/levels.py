"""Levels of memory: what a training can keep or compute again, from the most memory to the least, each with its price.

All but the last lead to the same LoRA. Memory and arithmetic are counted (memory.py); a level that was never counted is
left out, for what is known of it is only that it takes less than another.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_core.config import TrainConfig
from lora_core.models.architecture import Shapes
from lora_core.training.estimate.fit import Fit
from lora_core.training.estimate.ladder import ladder, together
from lora_core.training.estimate.memory import Size, arithmetic, memory

if TYPE_CHECKING:
    from lora_core.models.device import Device

KEEPING = ("lean_activations", "checkpointed_quarters", "gradient_checkpointing", "eight_bit_base")
MOST: dict[str, object] = dict(zip(KEEPING, (False, 0, False, False), strict=True))
NAMES = ("lean", "quarter", "half", "most", "again", "eight_bit")


def _levels() -> dict[str, dict[str, object]]:
    """The steps of the ladder that settle what is kept, as settings that make a level of any others."""
    config = TrainConfig().replace(**MOST)
    steps = [step for step in ladder(config) if step.changes.keys() <= set(KEEPING)]
    changes = ({**MOST, **change} for change in together(config, steps))
    return {"all": MOST, **dict(zip(NAMES, changes, strict=True))}


LEVELS = _levels()
PLAIN = LEVELS["lean"]


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
    config: TrainConfig, shapes: Shapes, device: Device, found: Fit | None, sizes: Collection[Size] = (),
    number_bytes: int = 0,
) -> Iterator[Level]:  # fmt: skip
    """The levels of a training on a device, of which `found` is known (`fit.fits`); none where nothing is."""
    width = number_bytes or (4 if device.kind == "cpu" else 0)
    plain = config.replace(**PLAIN)
    known = memory(plain, shapes, sizes, width)
    if found is None or known is None or not known.exact:
        return
    now, work = config.replace(**found.changes), arithmetic(plain, shapes, sizes, width)
    for name, changes in LEVELS.items():
        level = config.replace(**changes)
        less = memory(level, shapes, sizes, width)
        if less and less.exact:
            needed = found.budget.needed(less)
            longer = max(0.0, arithmetic(level, shapes, sizes, width) / work - 1)
            is_now = all(getattr(now, setting) == value for setting, value in changes.items())
            yield Level(name, changes, needed, longer, needed <= found.has, is_now)
