"""How much of a device's memory a training may take: what is free at this moment, not what the device has.

The driver tells what others hold of a card. Where it was not asked, all of the card counts, and a larger reserve stands
for what others may take of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from lora_core.models import computer
from lora_core.models.device import Device, memory_of
from lora_core.training.estimate.memory import RESERVE_BYTES, Memory

WORKSPACES_BYTES = 2**29  # a round allowance for workspaces and gaps, where desktop and driver's context were measured
LASTING = 0.03  # of the counted memory: less than this the check's measuring is off by itself
LEAST_RATIO, MOST_RATIO = 0.9, 1.5  # what the check found beyond these was another thing than the training's memory


@dataclass(frozen=True)
class Budget:
    """In bytes. has: what a training may take. reserve: of that, for what is neither counted nor measured.

    others: what other programs and the driver hold of the device's own memory; None: the driver did not tell.
    ratio: the memory that the check of this computer measured, over the counted; 1.0: the same, or never measured.
    """

    has: int
    reserve: int = RESERVE_BYTES
    others: int | None = None
    ratio: float = 1.0
    holds_host: bool = False  # the device has no memory of its own, and the host's part of a training lies there too

    @classmethod
    def of(cls, device: Device) -> Budget:
        """Of a device at this moment; what this program holds of it counts as free, for it can give that back."""
        ratio = _ratio(device)
        if not device.bytes:
            return cls(int(psutil.virtual_memory().total), ratio=ratio, holds_host=True)
        if (now := memory_of(device)) is None:
            return cls(device.bytes, ratio=ratio)
        return cls(now.free + now.held, WORKSPACES_BYTES, now.taken_by_others, ratio)

    def needed(self, found: Memory) -> int:
        """Bytes of the device that a training needs, reserve included."""
        return int(found.total * self.ratio) + self.reserve + (found.host if self.holds_host else 0)


def _ratio(device: Device) -> float:
    found = computer.known(device)
    ratio = found.memory_ratio if found and found.memory_ratio else 1.0
    return min(MOST_RATIO, max(LEAST_RATIO, ratio)) if abs(ratio - 1) > LASTING else 1.0
