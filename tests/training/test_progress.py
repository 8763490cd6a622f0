"""lora_core.training.progress: steps are told late and whole; divergence and a full card are seen and said once."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

from lora_core.events import Event, Step, Warned
from lora_core.messages import Message, say
from lora_core.system import windows
from lora_core.training import prepare, progress
from lora_core.training.estimate import speed as estimate_speed
from lora_core.training.progress import CardMemory, Diverged, ProgressMeter, SysmemFallbackDetector, card_memory
from tests.support.played_device import PlayedDevice
from tests.support.training import config_for, run

GB = 2**30
ROOMY, FULL, OVER = CardMemory(4 * GB, 3 * GB, 8 * GB), CardMemory(7 * GB, GB // 8, 8 * GB), CardMemory(9 * GB, 0, 8 * GB)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("lora_core.training.progress.time.monotonic", lambda: now[0])
    return now


def meter(told: list[Event]) -> ProgressMeter:
    return ProgressMeter(told.append, total=20, save_every=5, device=torch.device("cpu"))


def test_losses_are_read_late_but_all_of_them(clock: list[float]) -> None:
    told: list[Event] = []
    watch = meter(told)
    for step in (1, 2, 3):
        clock[0] += 0.1
        watch.add(step, torch.tensor(float(step)), 1e-4)
    assert told == []
    clock[0] += 0.3
    watch.add(4, torch.tensor(4.0), 1e-4)
    assert [(e.step, e.loss) for e in told if isinstance(e, Step)] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]


def test_speed_leaves_pauses_out_and_the_end_counts_them(clock: list[float]) -> None:
    watch = meter([])
    for step in range(1, 6):
        clock[0] += 0.5
        watch.add(step, torch.tensor(1.0), 1e-4)
    clock[0] += 8
    watch.resume_after(8.0, counts=True)
    for step in range(6, 11):
        clock[0] += 0.5
        watch.add(step, torch.tensor(1.0), 1e-4)
    assert watch.speed() == pytest.approx(2.0)
    assert watch.eta(10) == pytest.approx(10 / 2.0 + 2 * 8.0)


def on_a_card(
    device: PlayedDevice, told: list[Event], steps: int, save_every: int, device_s: float = 0.05, host_s: float = 0.002
) -> ProgressMeter:
    """A training whose steps the host only starts, with a save of three seconds now and then."""
    watch = ProgressMeter(told.append, steps, save_every, torch.device("cpu"))
    for step in range(1, steps + 1):
        device.step(host_s, device_s)
        watch.add(step, torch.tensor(1.0), 1e-4)
        if step % save_every == 0:
            watch.flush()
            device.now += 3
            watch.resume_after(3, counts=True)
    return watch


@pytest.mark.parametrize("save_every", [5, 10, 100, 1000])
def test_the_speed_is_the_cards_where_the_host_is_the_quicker(save_every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 steps a second; without a wait the host starts 500, and the pauses would take the rest of their time."""
    told: list[Event] = []
    watch = on_a_card(PlayedDevice(monkeypatch), told, 1000, save_every)
    assert watch.speed() == pytest.approx(20, rel=0.03)
    steps = [event for event in told if isinstance(event, Step)]
    assert [step.step for step in steps] == list(range(1, 1001))
    for step in steps[200:]:
        assert step.steps_per_second == pytest.approx(20, rel=0.03)
        saves = 1000 // save_every - step.step // save_every
        paused = 3 * saves if step.step > save_every else 0
        assert step.eta_seconds == pytest.approx((1000 - step.step) / 20 + paused, rel=0.03, abs=0.1)


def test_the_speed_is_the_hosts_where_the_card_is_the_quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    assert on_a_card(PlayedDevice(monkeypatch), [], 300, 100, 0.002, 0.05).speed() == pytest.approx(20, rel=0.01)


def test_the_host_is_never_more_than_two_steps_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a stop or a pause, which is seen between two steps, is answered within so many."""
    device = PlayedDevice(monkeypatch)
    on_a_card(device, [], 100, 50, device_s=0.7)
    assert device.longest_queue <= 3 * 0.7 + 0.01, "the step that was started, and two before it"


def test_a_full_card_at_its_usual_pace_is_no_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paces that were taken for those of the host made the card's own look slow."""
    monkeypatch.setattr(progress, "card_memory", lambda device: FULL)
    told: list[Event] = []
    device = PlayedDevice(monkeypatch)
    watch = ProgressMeter(told.append, 400, 5, torch.device("cpu"))
    watch.sysmem_fallback.expected = 0.05
    for step in range(1, 401):
        device.step(0.002, 0.05)
        watch.add(step, torch.tensor(1.0), 1e-4)
        if step % 50 == 0:
            watch.flush()
            watch.resume_after(0, counts=False)
    assert not [event for event in told if isinstance(event, Warned)]


@pytest.mark.parametrize(("first_s", "eta_s"), [(2.4, -1.0), (60.0, 19 * 60.0)])
def test_of_a_first_step_the_end_is_told_only_where_warming_up_is_little_of_it(
    first_s: float, eta_s: float, clock: list[float]
) -> None:
    watch = meter([])
    clock[0] += first_s
    watch.add(1, torch.tensor(1.0), 1e-4)
    assert watch.eta(1) == pytest.approx(eta_s)
    clock[0] += 0.25
    watch.add(2, torch.tensor(1.0), 1e-4)
    assert watch.eta(2) == pytest.approx(18 * 0.25)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_before_it_is_told(bad: float, clock: list[float]) -> None:
    told: list[Event] = []
    watch = meter(told)
    watch.add(1, torch.tensor(0.5), 1e-4)
    watch.add(2, torch.tensor(bad), 1e-4)
    with pytest.raises(Diverged) as stopped:
        watch.flush()
    assert stopped.value.args == (2,) and [e.step for e in told if isinstance(e, Step)] == [1]


def steps_told(losses: str, scale_loss: bool, at_once: int) -> tuple[list[int], int | None]:
    """Steps that were told, and the one it diverged at; "." is a number, "x" is none. So many losses are read at once."""
    told: list[Event] = []
    watch = ProgressMeter(told.append, 100, 100, torch.device("cpu"), scale_loss)
    diverged = None
    try:
        for step, loss in enumerate(losses, 1):
            watch.add(step, torch.tensor(1.0 if loss == "." else math.nan), 1e-4)
            if step % at_once == 0:
                watch.flush()
        watch.flush()
    except Diverged as stopped:
        (diverged,) = stopped.args
    return [event.step for event in told if isinstance(event, Step)], diverged


@pytest.mark.parametrize("at_once", [1, 3, 100])
@pytest.mark.parametrize(
    ("losses", "scale_loss", "told", "diverged"),
    [
        ("..x.", False, [1, 2], 3),
        ("..x.", True, [1, 2, 4], None),
        ("xxx.xxx.", True, [4, 8], None),  # the first steps of fp16, while the scale comes down
        (".x.xx.x.x.", True, [1, 3, 6, 8, 10], None),
        ("..xxxx.", True, [1, 2], 6),
        ("..xxx", True, [1, 2], None),
    ],
)
def test_with_loss_scaling_a_few_overflows_are_left_out(
    losses: str, scale_loss: bool, told: list[int], diverged: int | None, at_once: int, clock: list[float]
) -> None:
    """The scaler skipped these steps already; four in a row are no accident."""
    assert steps_told(losses, scale_loss, at_once) == (told, diverged)


def test_what_was_left_out_before_a_roll_back_does_not_count_after_it(clock: list[float]) -> None:
    watch = ProgressMeter([].append, 100, 100, torch.device("cpu"), scale_loss=True)
    for _ in range(5):
        for step in (1, 2, 3):
            watch.add(step, torch.tensor(math.nan), 1e-4)
        watch.flush()
        watch.discard()


def watch(*looks: tuple[int, float, CardMemory], expected: float = 0.0) -> list[tuple[int, Message]]:
    """(look, notice) of what is said, at so many looks of such a pace and memory."""
    seen, said, number = SysmemFallbackDetector(expected), [], 0
    for count, seconds, memory in looks:
        for _ in range(count):
            number += 1
            if notice := seen.add(seconds, memory):
                said.append((number, notice))
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
def test_when_a_sysmem_fallback_is_told(looks: list[tuple[int, float, CardMemory]], told_at: list[int]) -> None:
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
def test_when_a_sysmem_fallback_is_told_by_earlier_trainings(
    looks: list[tuple[int, float, CardMemory]], told_at: list[int]
) -> None:
    said = watch(*looks, expected=1.0)
    assert [number for number, _ in said] == told_at
    assert all("a step takes 6 times as long as before" in str(notice) for _, notice in said)


def test_what_is_told_of_a_sysmem_fallback() -> None:
    (_, slow), (_, over) = watch((10, 1.0, FULL), (3, 4.4, FULL))[0], watch((1, 1.0, OVER))[0]
    assert "(7.9 of 8.0 GB), and a step takes 4 times as long as before: its driver" in str(slow)
    assert "(9.0 of 8.0 GB): its driver" in str(over)
    for notice in (slow, over):
        assert "Prefer No Sysmem Fallback" in str(notice) and "--gradient_checkpointing" in str(notice)
        told = say(notice, "pt-BR")
        assert "(7,9 de 8,0 GB)" in told or "(9,0 de 8,0 GB)" in told
        assert ("4 vezes" in told) == (notice is slow)


def test_the_card_is_looked_at_where_its_driver_falls_back_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []

    def information(device: torch.device) -> tuple[int, int]:
        asked.append(device)
        return 3 * GB, 8 * GB

    monkeypatch.setattr(torch.cuda, "mem_get_info", information)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 4 * GB)
    monkeypatch.setattr(windows, "api", lambda: None)
    assert card_memory(torch.device("cuda:0")) is None
    monkeypatch.setattr(windows, "api", lambda: windows.Api(*[lambda *a: 0] * 4))
    assert card_memory(torch.device("cpu")) is None
    assert card_memory(torch.device("cuda:0")) == (None if torch.version.hip else ROOMY)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert card_memory(torch.device("cuda:0")) is None and len(asked) <= 1


def test_a_training_tells_it_and_takes_pauses_for_no_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now, memory, told = [100.0], [FULL], list[Event]()
    monkeypatch.setattr("lora_core.training.progress.time.monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "card_memory", lambda device: memory[0])
    watching = ProgressMeter(told.append, total=100, save_every=5, device=torch.device("cpu"))

    def steps(count: int, seconds: float) -> None:
        for _ in range(count):
            now[0] += seconds
            watching.add(1, torch.tensor(1.0), 1e-4)

    def warned() -> list[str]:
        return [str(event.message) for event in told if isinstance(event, Warned)]

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
    memory, expected, real = [ROOMY], list[float](), SysmemFallbackDetector.add
    for asker in (progress, prepare):
        monkeypatch.setattr(asker, "card_memory", lambda device: memory[0])
    monkeypatch.setattr(estimate_speed, "speeds_file", lambda: tmp_path / "speeds.json")

    def noted(self: SysmemFallbackDetector, step_seconds: float, seen: CardMemory) -> Message | None:
        expected.append(self.expected)
        return real(self, step_seconds, seen)

    def trained(folder: str) -> int:
        """How often the full card is told."""
        job, events = run(config_for(tiny_sd1, pictures, tmp_path / folder, max_train_steps=12, save_steps=12))
        assert job.error is None
        return sum(isinstance(event, Warned) and event.message.key == "training.sysmem_fallback" for event in events)

    monkeypatch.setattr(SysmemFallbackDetector, "add", noted)
    assert trained("first") == 0 and set(expected) == {0.0}
    (left,) = json.loads((tmp_path / "speeds.json").read_text(encoding="utf-8"))["runs"]
    memory[0] = OVER
    expected.clear()
    assert trained("second") == 1 and min(expected) == max(expected) == pytest.approx(1 / left["steps_per_second"])
    assert json.loads((tmp_path / "speeds.json").read_text(encoding="utf-8"))["runs"] == [left]
