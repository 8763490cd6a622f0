"""lora_core.ui.state.computer_check: asked for or by itself, never beside anything else, and told as it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_core.check.findings import Report
from lora_core.errors import UserError
from lora_core.events import Emit
from lora_core.models.computer import computer_file, known
from lora_core.models.device import devices
from lora_core.ui.state import computer_check
from lora_core.ui.state.app import App
from lora_core.ui.state.background import has_ended
from lora_core.ui.state.computer_check import DONE, FAILED, IDLE, STOPPING, ComputerCheck
from lora_core.ui.state.lora_library import library_of
from tests.support.played_check import played_check
from tests.support.training import config_for


@pytest.fixture(autouse=True)
def own_computer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREINO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(computer_check, "QUIET_S", 0.05)


class Window:
    """A check beside something that computes or not; `start_again` is the program started anew."""

    def __init__(self, run: computer_check.Run = played_check) -> None:
        self.memory: dict[str, Any] = {}
        self.crashes: list[str] = []
        self.computes = False
        self.run = run
        self.start_again()

    def start_again(self) -> None:
        self.check = ComputerCheck(
            self.memory.get, self.memory.__setitem__, lambda what, _: self.crashes.append(what), True, self.run
        )
        self.check.makes_way_for(lambda: self.computes)

    def looks_for(self, seconds: float, is_ready: bool = True) -> bool:
        """What the pages' questions do, each 10 ms; whether a check was seen."""
        until, begun = time.monotonic() + seconds, False
        while time.monotonic() < until and not begun:
            self.check.begin_by_itself(is_ready)
            begun = self.check.state.phase != IDLE
            time.sleep(0.01)
        return begun


def forever(device: str, emit: Emit, wants_stop: Callable[[], bool]) -> Report:
    while not wants_stop():
        time.sleep(0.01)
    return played_check(device, emit, lambda: True)


def test_a_check_is_told_from_its_first_part_to_its_report() -> None:
    window = Window()
    before = window.check.state.stamp
    window.check.start()
    window.check.start()  # a second press changes nothing
    assert window.check.state.is_busy and 0 < window.check.state.seconds_left <= 60
    assert window.check.wait(20)
    state = window.check.state
    assert (state.phase, state.done, state.total) == (DONE, 3, 3) and state.report and state.report.is_whole
    assert state.stamp != before and not state.by_itself
    assert computer_file().is_file()


def test_after_a_restart_the_last_report_is_told_without_a_check() -> None:
    window = Window()
    assert window.check.state.earlier is None
    window.check.start()
    assert window.check.wait(20) and window.check.state.report
    lines = tuple(window.check.state.report.lines())
    window.start_again()
    before = window.check.state.stamp
    window.check.begin_by_itself(is_ready=False)
    assert window.check.state.earlier is None, "not before torch is there"
    until = time.monotonic() + 20
    while window.check.state.earlier is None and time.monotonic() < until:
        window.check.begin_by_itself(is_ready=True)
        time.sleep(0.01)
    state = window.check.state
    assert state.earlier and state.earlier.lines == lines and state.earlier.at == pytest.approx(time.time(), abs=60)
    assert state.stamp != before and state.phase == IDLE and state.report is None and not window.crashes


def test_devices_that_cannot_be_asked_are_told_and_end_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise OSError("torn")

    monkeypatch.setattr(computer_check, "_device", fails)
    window = Window()
    window.check._may_begin = False
    window.check.begin_by_itself(is_ready=True)
    until = time.monotonic() + 20
    while not window.crashes and time.monotonic() < until:
        time.sleep(0.01)
    assert window.crashes == ["looking up this computer's check"] and window.check.state.earlier is None


def test_stopped_it_keeps_what_was_found_and_does_not_begin_by_itself() -> None:
    window = Window(forever)
    window.check.start()
    window.check.stop()
    assert window.check.state.phase in (STOPPING, DONE) and window.check.wait(20)
    assert window.check.state.report and not window.check.state.report.is_whole
    computer_file().unlink()
    window.start_again()
    assert not window.looks_for(0.3), "the person stopped it for this computer"


def test_it_begins_by_itself_once_and_only_where_nothing_is_known() -> None:
    window = Window()
    assert not window.looks_for(0.2, is_ready=False)
    window.computes = True
    assert not window.looks_for(0.2)
    window.computes = False
    assert window.looks_for(20) and window.check.state.by_itself and window.check.wait(20)
    for _ in range(2):
        window.start_again()
        assert not window.looks_for(0.3)
    window.memory.clear()
    window.start_again()
    assert known(next(device for device in devices() if device.works)) and not window.looks_for(0.3)


def test_what_starts_interrupts_it_and_the_next_start_begins_again() -> None:
    window = Window(forever)
    assert window.looks_for(20)
    window.computes = True  # somebody draws
    assert window.check.wait(20) and window.check.state.report and not window.check.state.report.is_whole
    with pytest.raises(UserError, match="Something else is being computed"):
        window.check.start()
    window.computes = False
    assert not window.looks_for(0.3) or window.check.state.phase == DONE, "once for each start of the program"
    window.start_again()
    assert window.looks_for(20) and window.check.state.is_busy
    window.check.make_way()
    assert not window.check.state.is_busy


def test_a_program_that_ended_in_a_check_does_not_begin_one_again() -> None:
    window = Window(forever)
    assert window.looks_for(20)
    while not window.memory:
        time.sleep(0.01)
    left = dict(window.memory)
    window.check.stop()
    assert window.check.wait(20)
    window.memory = left  # as a driver's crash would leave it
    window.start_again()
    assert not window.looks_for(0.3)


def test_a_check_that_does_not_end_is_told_to_who_waits() -> None:
    gate = [False]

    def deaf(device: str, emit: Emit, wants_stop: Callable[[], bool]) -> Report:
        while not gate[0]:
            time.sleep(0.01)
        return played_check(device, emit, wants_stop)

    window = Window(deaf)
    window.check.start()
    with pytest.raises(UserError, match="still ending"):
        window.check.make_way(0.1)
    gate[0] = True
    assert window.check.wait(20)


@pytest.mark.parametrize("error, told", [(UserError("models.no_bf16"), ""), (OSError("torn"), "OSError: torn")])
def test_a_check_that_fails_is_a_sentence(error: Exception, told: str) -> None:
    def fails(device: str, emit: Emit, wants_stop: Callable[[], bool]) -> Report:
        raise error

    window = Window(fails)
    window.check.start()
    assert window.check.wait(20) and window.check.state.phase == FAILED and window.check.state.error
    assert told in str(window.check.state.error) and bool(window.crashes) == bool(told)


def test_a_start_of_a_training_ends_the_check_first(tiny_sd1: Path, pictures: Path, tmp_path: Path) -> None:
    app = App(tmp_path / "home", tmp_path / "runs", check=forever)
    library_of(app)
    app.check.start()
    app.training.start(config_for(tiny_sd1, pictures, tmp_path / "runs" / "one", max_train_steps=1))
    assert not app.check.state.is_busy
    with pytest.raises(UserError, match="Something else"):
        app.check.start()
    assert app.training.job and app.training.job.wait(120)


def test_without_leave_it_never_begins_by_itself(tmp_path: Path) -> None:
    app = App(tmp_path / "home", tmp_path / "runs", check=forever)
    for _ in range(10):
        app.check.begin_by_itself(is_ready=True)
        time.sleep(0.02)
    assert app.check.state.phase == IDLE and has_ended(app.check._working)
