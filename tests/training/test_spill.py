"""Whether a card's memory runs over is seen from its fill and from the pace, and said once."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from lora_core.events import Event, Warned
from lora_core.system import windows
from lora_core.training import progress, spill
from lora_core.training.estimate import speed as estimate_speed
from lora_core.training.progress import Meter
from lora_core.training.spill import Card, Spill
from lora_core.ui.shared.texts import Texts
from lora_core.ui.shared.translate import translated
from tests.support.training import config_for, run

GB = 2**30
ROOMY, FULL, OVER = Card(4 * GB, 3 * GB, 8 * GB), Card(7 * GB, GB // 8, 8 * GB), Card(9 * GB, 0, 8 * GB)


def watch(*looks: tuple[int, float, Card], expected: float = 0.0) -> list[tuple[int, str]]:
    """(look, sentence) of what is said, at so many looks of such a pace and memory."""
    seen, said, number = Spill(expected), [], 0
    for count, seconds, memory in looks:
        for _ in range(count):
            number += 1
            if sentence := seen.add(seconds, memory):
                said.append((number, sentence))
    return said


@pytest.mark.parametrize(
    ("looks", "told_at"),
    [
        ([(50, 1.0, ROOMY)], []),
        ([(50, 1.0, FULL)], []),  # full is how a card should be
        ([(10, 1.0, ROOMY), (20, 9.0, ROOMY)], []),  # slow for another reason
        ([(10, 1.0, ROOMY), (20, 4.0, FULL)], [13]),
        ([(10, 1.0, FULL), (20, 4.0, FULL)], [13]),
        ([(10, 1.0, FULL), (2, 4.0, FULL), (10, 1.0, FULL)], []),  # a hiccup
        ([(10, 1.0, FULL), (2, 4.0, FULL), (1, 1.0, FULL), (2, 4.0, FULL)], []),
        ([(10, 1.0, FULL), (20, 2.5, FULL)], []),  # larger pictures
        ([(3, 1.0, FULL), (1, 40.0, FULL), (10, 1.0, FULL)], []),  # the first step warms up
        ([(4, 1.0, FULL), (9, 4.0, FULL)], [8]),  # the fifth look makes a pace to compare with
        ([(2, 1.0, FULL), (9, 4.0, FULL)], []),  # no pace to compare with was ever quick
        ([(1, 4.0, OVER)], [1]),  # more than there is: no pace is needed
        ([(10, 1.0, FULL), (5, 4.0, FULL), (5, 1.0, FULL), (5, 4.0, FULL)], [13]),  # once
    ],
)
def test_when_it_is_told(looks: list[tuple[int, float, Card]], told_at: list[int]) -> None:
    assert [number for number, _ in watch(*looks)] == told_at


@pytest.mark.parametrize(
    ("looks", "told_at"),
    [
        ([(20, 1.5, FULL)], []),
        ([(20, 1.5, ROOMY)], []),
        ([(1, 9.0, FULL), (9, 1.0, FULL)], []),
        ([(9, 6.0, FULL)], [3]),  # from the first step on
        ([(9, 6.0, ROOMY)], []),
    ],
)
def test_when_it_is_told_by_earlier_trainings(looks: list[tuple[int, float, Card]], told_at: list[int]) -> None:
    said = watch(*looks, expected=1.0)
    assert [number for number, _ in said] == told_at
    assert all("a step takes 6 times as long as before" in sentence for _, sentence in said)


def test_what_is_told() -> None:
    (_, slow), (_, over) = watch((10, 1.0, FULL), (3, 4.4, FULL))[0], watch((1, 1.0, OVER))[0]
    assert "(7.9 of 8.0 GB), and a step takes 4 times as long as before: its driver" in slow
    assert "(9.0 of 8.0 GB): its driver" in over
    for sentence in (slow, over):
        assert "Prefer No Sysmem Fallback" in sentence and "--gradient_checkpointing" in sentence
        told = translated(sentence, Texts("pt-BR"))
        assert told != sentence and " the " not in told and "{" not in told and ("4 vezes" in told) == (sentence is slow)


def test_the_card_is_looked_at_where_its_driver_spills_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []

    def information(device: torch.device) -> tuple[int, int]:
        asked.append(device)
        return 3 * GB, 8 * GB

    monkeypatch.setattr(torch.cuda, "mem_get_info", information)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 4 * GB)
    monkeypatch.setattr(windows, "api", lambda: None)
    assert spill.card(torch.device("cuda:0")) is None
    monkeypatch.setattr(windows, "api", lambda: windows.Api(*[lambda *a: 0] * 4))
    assert spill.card(torch.device("cpu")) is None
    assert spill.card(torch.device("cuda:0")) == (None if torch.version.hip else ROOMY)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert spill.card(torch.device("cuda:0")) is None and len(asked) <= 1


def test_a_training_tells_it_and_takes_pauses_for_no_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now, memory, told = [100.0], [FULL], list[Event]()
    monkeypatch.setattr("lora_core.training.progress.time.monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "card", lambda device: memory[0])
    watching = Meter(told.append, total=100, save_every=5, device=torch.device("cpu"))

    def steps(count: int, seconds: float) -> None:
        for _ in range(count):
            now[0] += seconds
            watching.add(1, torch.tensor(1.0), 1e-4)

    def warned() -> list[str]:
        return [event.message for event in told if isinstance(event, Warned)]

    for _ in range(8):
        steps(2, 0.3)
        watching.flush()
        now[0] += 60  # samples are drawn
        watching.resume_after(60, counts=True)
    memory[0] = dataclasses.replace(FULL, free=0)
    steps(20, 0.3)
    assert not warned()
    steps(3, 2.0)
    assert len(warned()) == 1 and "7 times as long" in warned()[0]


def test_a_run_on_a_full_card_knows_the_earlier_pace_and_leaves_none(
    tiny_sd1: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card is played; the trainings are real ones."""
    memory, expected, real = [ROOMY], list[float](), Spill.add
    for asker in (progress, spill):
        monkeypatch.setattr(asker, "card", lambda device: memory[0])
    monkeypatch.setattr(estimate_speed, "speeds_file", lambda: tmp_path / "speeds.json")

    def noted(self: Spill, step_seconds: float, seen: Card) -> str:
        expected.append(self.expected)
        return real(self, step_seconds, seen)

    def trained(folder: str) -> int:
        """How often the full card is told."""
        job, events = run(config_for(tiny_sd1, pictures, tmp_path / folder, max_train_steps=12, save_steps=12))
        assert job.error is None
        return sum(isinstance(event, Warned) and "Sysmem" in event.message for event in events)

    monkeypatch.setattr(Spill, "add", noted)
    assert trained("first") == 0 and set(expected) == {0.0}
    (left,) = json.loads((tmp_path / "speeds.json").read_text(encoding="utf-8"))["runs"]
    memory[0] = OVER
    expected.clear()
    assert trained("second") == 1 and min(expected) == max(expected) == pytest.approx(1 / left["steps_per_second"])
    assert json.loads((tmp_path / "speeds.json").read_text(encoding="utf-8"))["runs"] == [left]
