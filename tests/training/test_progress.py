from __future__ import annotations

import math

import pytest
import torch

from lora_core.events import Event, Step
from lora_core.training.progress import Diverged, Meter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("lora_core.training.progress.time.monotonic", lambda: now[0])
    return now


def meter(told: list[Event]) -> Meter:
    return Meter(told.append, total=20, save_every=5, device=torch.device("cpu"))


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
