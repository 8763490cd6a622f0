"""lora_core.training.estimate.budget: memory is planned with what is free, and as the check found it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lora_core.cli import plan_summary
from lora_core.config import TrainConfig
from lora_core.models import device as devices
from lora_core.models.architecture import of_family
from lora_core.models.computer import Computer, Identity, keep
from lora_core.models.device import Compute, Device, DeviceMemory
from lora_core.training.estimate import budget, fit
from lora_core.training.estimate.budget import WORKSPACES_BYTES, Budget
from lora_core.training.estimate.cost import estimate
from lora_core.training.estimate.fit import fits
from lora_core.training.estimate.levels import levels
from lora_core.training.estimate.memory import RESERVE_BYTES, memory
from tests.training.estimate.test_fit import sdxl_model

GIB = 2**30
CARD = Device("cuda:0", "RTX 4060", 8 * GIB)
SDXL = {"resolution": 1024, "target_modules": ["to_q", "to_k", "to_v", "to_out.0"]}


def play(monkeypatch: pytest.MonkeyPatch, free: float, held: float = 0.0, card: Device = CARD) -> None:
    """A card of which so many GiB are free, and so many are held by this program."""
    now = DeviceMemory(int(free * GIB), card.bytes, int(held * GIB))
    monkeypatch.setattr(budget, "memory_of", lambda device: now if device.bytes else None)
    monkeypatch.setattr(fit, "devices", lambda: [card])


def test_what_others_take_is_not_planned_with_and_what_this_program_holds_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Budget.of(CARD) == Budget(8 * GIB, RESERVE_BYTES), "nobody told"
    play(monkeypatch, 6.4)
    mine = Budget.of(CARD)
    assert (mine.has, mine.reserve) == (int(6.4 * GIB), WORKSPACES_BYTES) and mine.others == CARD.bytes - mine.has
    play(monkeypatch, 1.4, held=5.0)
    again = Budget.of(CARD)
    assert again.has == pytest.approx(mine.has, abs=2) and again.others == pytest.approx(mine.others, abs=2)


def test_a_training_that_fits_the_card_but_not_what_is_free_is_recomputed_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect 3: SDXL on 8 GB was planned for all that the card has but one GiB."""
    config, shapes = TrainConfig.of(SDXL), of_family("sdxl")
    played = []
    for free in (7.4, 6.9, 6.5):
        play(monkeypatch, free)
        found = fits(config, shapes, CARD)
        assert found and found.fits and found.needed <= free * GIB and found.budget.others == CARD.bytes - int(free * GIB)
        less = memory(config.replace(**found.changes), shapes)
        assert less and less.total + WORKSPACES_BYTES <= free * GIB
        played.append(found.longer)
    assert played == sorted(played) and played[0] < played[-1]
    play(monkeypatch, 3.0)
    none = fits(config, shapes, CARD)
    assert none and not none.fits and none.has == 3 * GIB
    told = list(levels(config, shapes, CARD, none))
    assert told and not any(level.fits for level in told if level.name != "eight_bit")


def test_the_notice_names_what_others_take(monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, 6.4)
    compute = Compute(torch.device("cuda:0"), torch.float16, True)
    told = str(fit.notice(sdxl_model(), TrainConfig.of(SDXL), compute))
    assert "more than the 6.4 GB that are free on RTX 4060, 8 GB (cuda:0)" in told
    assert "the desktop and other programs take 1.6 GB" in told
    assert "can do it" not in told, "the same card is no other card"


@pytest.mark.parametrize(
    ("measured", "ratio"),
    [(None, 1.0), (1.02, 1.0), (0.98, 1.0), (1.2, 1.2), (0.95, 0.95), (0.5, 0.9), (4.0, 1.5)],
    ids=str,
)
def test_a_lasting_difference_corrects_what_was_counted_within_bounds(
    measured: float | None, ratio: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TREINO_CACHE", str(tmp_path / "cache"))
    assert keep(Computer(Identity.of(CARD), memory_ratio=measured))
    counted = memory(TrainConfig.of({}), of_family("sd1"))
    assert counted
    assert Budget.of(CARD).ratio == ratio
    assert Budget.of(CARD).needed(counted) == int(counted.total * ratio) + RESERVE_BYTES


def test_the_driver_is_asked_of_the_very_card(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def mem_get_info(number: int) -> tuple[int, int]:
        asked.append(number)
        return 3 * GIB, 8 * GIB

    played: Any = SimpleNamespace(device_count=lambda: 2, mem_get_info=mem_get_info, memory_reserved=lambda number: GIB)
    monkeypatch.setattr(torch, "cuda", played)
    found = devices.memory_of(Device("cuda:1", "second", 8 * GIB))
    assert found == DeviceMemory(3 * GIB, 8 * GIB, GIB) and asked == [1] and found.taken_by_others == 4 * GIB
    assert devices.memory_of(Device("cuda:2", "gone", 8 * GIB)) is None
    assert devices.memory_of(Device("cuda:1", "old", 8 * GIB, works=False)) is None
    assert devices.memory_of(Device("cpu", "the CPU")) is None

    def refuses(number: int) -> tuple[int, int]:
        raise RuntimeError("not supported")

    played.mem_get_info = refuses
    assert devices.memory_of(Device("cuda:1", "second", 8 * GIB)) is None


def test_the_terminal_names_what_is_free_and_what_others_take(monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, 6.4)
    compute = Compute(torch.device("cuda:0"), torch.float16, True)
    found = estimate(TrainConfig.of({"pretrained_model_name_or_path": "starter"}), compute=compute)
    told = [str(line) for line in plan_summary._needs(found, is_cpu=False)]
    assert "6.4 GiB are free (the driver, the desktop and other programs take 1.6 GiB)" in told


def test_each_card_is_told_its_own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect 14: of cuda:1 the first card's memory was shown."""
    cards = [Device("cuda:0", "large", 24 * GIB), Device("cuda:1", "small", 8 * GIB)]
    free = {"cuda:0": 20 * GIB, "cuda:1": 6 * GIB}
    monkeypatch.setattr(budget, "memory_of", lambda device: DeviceMemory(free[device.name], device.bytes, 0))
    monkeypatch.setattr(fit, "devices", lambda: cards)
    for card in cards:
        compute = Compute(torch.device(card.name), torch.float16, True)
        found = estimate(TrainConfig.of({"pretrained_model_name_or_path": "starter"}), compute=compute)
        assert found.fit and found.fit.has == free[card.name]
