"""Noticing that a driver keeps a part of the training in the computer's memory, where every step takes many times as long.

NVIDIA's driver for Windows does so when a card is full, instead of refusing; nothing but the speed shows it. Told from
both: the card is full, and steps take several times as long as they did, or as earlier trainings let expect. Or from
memory alone, where the training holds more than the card has.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch

from lora_core.system import windows

FULL = 0.95  # of a card's memory; the driver begins to move things out a little before the end
SLOWER = 3.0  # times; pictures of another size differ by less, and a card that is hot or shared rarely by as much
MUCH_SLOWER = 5.0  # times what is expected by earlier trainings, whose settings may have been others
BEFORE, PATIENCE = 5, 3  # looks: how many make a pace to compare with, and how many slow ones in a row are no accident


@dataclass(frozen=True)
class Card:
    """A graphics card's memory in bytes: held by this program, free for all, and in all."""

    held: int
    free: int
    total: int

    @property
    def is_full(self) -> bool:
        return max(self.held, self.total - self.free) >= FULL * self.total


def card(device: torch.device) -> Card | None:
    """An NVIDIA card under Windows; None for whatever else, which does not spill or is not seen to. No wait for it."""
    if windows.api() is None or device.type != "cuda" or torch.version.hip:
        return None
    free, total = torch.cuda.mem_get_info(device)
    return Card(torch.cuda.memory_reserved(device), free, total)


class Spill:
    """Takes the seconds of a step and the card's memory, now and then; says so once when the driver spills.

    expected: seconds of a step by earlier trainings on this card; 0 where there was none.
    """

    def __init__(self, expected: float = 0.0) -> None:
        self.expected = expected
        self.paces: list[float] = []  # while the card was not full, or no slower for it
        self.slow = 0
        self.is_told = False

    def add(self, step_seconds: float, memory: Card) -> str:
        """A sentence for a person, or an empty string."""
        usual = statistics.median(self.paces) if len(self.paces) >= BEFORE else 0.0
        limits = [times * pace for times, pace in ((SLOWER, usual), (MUCH_SLOWER, self.expected)) if pace]
        is_slow = memory.is_full and bool(limits) and step_seconds > min(limits)
        self.slow = self.slow + 1 if is_slow else 0
        if not is_slow:
            self.paces = [*self.paces[-99:], step_seconds]
        is_over = memory.held > memory.total
        if self.is_told or not (is_over or self.slow >= PATIENCE):
            return ""
        self.is_told = True
        used, total = max(memory.held, memory.total - memory.free) / 2**30, memory.total / 2**30
        before = min(pace for pace in (usual, self.expected) if pace) if is_slow else 0.0
        slower = f", and a step takes {step_seconds / before:.0f} times as long as before" if is_slow else ""
        return (
            f"The graphics card is full ({used:.1f} of {total:.1f} GB){slower}: its driver keeps the rest in "
            "the computer's memory, which is many times slower. Close other programs that use the card, or stop and start "
            "again with --gradient_checkpointing, a smaller --train_batch_size or a smaller --resolution. To be told at "
            "once next time: NVIDIA Control Panel, Manage 3D settings, CUDA - Sysmem Fallback Policy, Prefer No Sysmem "
            "Fallback."
        )
