from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lora_core import memory, precision
from lora_core.config import TrainConfig
from lora_core.families import sd1, sdxl
from lora_core.precision import Compute, Device
from tests.clients.models import real_unet

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]
MIB, GIB = 2**20, 2**30


def model(family: str) -> Any:
    """The shapes of a real model; its weights are nowhere."""
    return SimpleNamespace(unet=real_unet(family), text_encoders={}, family={"sd1": sd1, "sdxl": sdxl}[family].FAMILY)


def config(resolution: int, **values: object) -> TrainConfig:
    return TrainConfig.of({"resolution": resolution, "target_modules": ATTENTION, **values})


@pytest.mark.parametrize(
    ("family", "resolution", "checkpointing", "mib"),
    [  # weights, what is kept for backward, adapters with Adam: as counted tensor by tensor
        ("sd1", 512, False, 1639 + 903 + 78), ("sd1", 512, True, 1639 + 230 + 78),
        ("sdxl", 1024, False, 4897 + 6498 + 487), ("sdxl", 1024, True, 4897 + 605 + 487),
    ],
)  # fmt: skip
def test_the_sum_is_that_of_a_count_tensor_by_tensor(
    family: str, resolution: int, checkpointing: bool, mib: int
) -> None:
    asked = config(resolution, gradient_checkpointing=checkpointing)
    needed = memory.needed_bytes(model(family), asked, torch.float16) - memory.DRIVER_BYTES
    assert needed / MIB == pytest.approx(mib, rel=0.03)


def test_a_card_that_is_too_small_is_told_with_the_smallest_that_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [Device("cuda:0", "huge", 80 * GIB), Device("cuda:1", "fitting", 16 * GIB), Device("cuda:2", "small", 8 * GIB)]
    monkeypatch.setattr(memory, "devices", lambda: [*cards, *precision.devices()])
    big, asked = model("sdxl"), config(1024)

    def told(device: str, asked: TrainConfig = asked) -> str:
        return memory.notice(big, asked, Compute(torch.device(device), torch.float16, True))

    assert "about 12." in told("cuda:2") and "small, 8 GB (cuda:2) has. fitting, 16 GB (cuda:1) can" in told("cuda:2")
    assert told("cuda:1") == told("cuda:0") == told("cpu") == ""
    assert told("cuda:2", config(1024, gradient_checkpointing=True)) == ""
    del cards[:2]
    assert "--gradient_checkpointing" in told("cuda:2")
