"""A window on a computer with a graphics card that is played: `python -m tests.support.played_card_window`.

The variable PLAYED_CARD names it, by its memory: the plan and the recipes count with its memory. Nothing can be
trained there, for there is nothing to compute on.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lora_core.models import device as devices
from lora_core.models.device import Device, DeviceMemory
from lora_core.training.estimate import budget
from lora_core.ui.state.app import App
from tests.support.played_cards import RTX_3090, RTX_4060, Played
from tests.support.played_window import serve

CARDS = {"8 GB": RTX_4060, "24 GB": RTX_3090}


def play(card: Played) -> None:
    """Let torch seem to have this card, and no other."""

    def memory_of(device: Device) -> DeviceMemory | None:
        return card.left if device.bytes else None

    devices._cuda_cards = lambda: [card.about]
    devices._has_bf16 = lambda there: there.kind != "cpu" and card.bf16
    devices._may_be_nan = lambda there: False
    for module in (devices, budget):
        vars(module)["memory_of"] = memory_of


def main() -> int:
    play(CARDS[os.environ["PLAYED_CARD"]])
    return serve(App(runs_folder=Path(os.environ["TREINO_RUNS"]), checks_itself=False))


if __name__ == "__main__":
    sys.exit(main())
