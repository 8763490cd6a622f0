"""`treino.py check` as a person types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lora_core.check import run
from lora_core.check.findings import GOOD, Finding, Report
from lora_core.cli import main as cli
from lora_core.events import Emit, Phase
from lora_core.messages import Message
from lora_core.models.computer import Computer, Identity
from lora_core.models.device import Device


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Report:
    """The report of a check that is played; `device` of its computer is what was asked for."""
    computer = Computer(Identity("a card", 0, "", "2.13", "1"), formats={"fp16": True})
    told = Finding(GOOD, Message("check.native_bf16"), Message("check.cpu_in_fp32"))
    report = Report((Message("check.processor", name="a CPU", physical=4),), (told,), computer, 12.0)

    def check(device: str, emit: Emit, wants_stop: Callable[[], bool]) -> Report:
        emit(Phase("check", 1, 3, Message("check.name_disk")))
        return replace(report, computer=replace(computer, identity=replace(computer.identity, device=device)))

    monkeypatch.setattr(run, "check", check)
    return report


def test_the_report_is_printed_and_the_progress_beside_it(found: Report, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check"]) == 0
    told = capsys.readouterr()
    assert told.out == found.text() + "\n" and "bf16 has units of its own\n    -> trainings compute in fp32\n" in told.out
    assert told.err == "Checking this computer 1/3: the disks\n"


def test_json_is_one_object_alone(found: Report, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "--json", "--device", "cuda:1"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert table["computer"]["identity"]["device"] == "cuda:1"
    assert table["findings"][0]["key"] == "check.native_bf16" and table["findings"][0]["decision"]["text"]


def test_a_check_that_was_stopped_says_so(
    found: Report, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "check", lambda *_: replace(found, is_whole=False))
    assert cli.main(["check"]) == 130
    assert "The check was stopped after 12 s" in capsys.readouterr().out


def test_a_device_that_is_not_there_is_wrong_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "--device", "toaster"]) == 2
    assert "'toaster' is not available here" in capsys.readouterr().err


def test_info_tells_what_a_model_takes_on_this_computer(
    tiny_sd1: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lora_core.check import machine

    monkeypatch.setattr(machine, "devices", lambda: [Device("cpu", "the CPU")])
    known = Computer(Identity("a CPU", 0, "", "", ""), formats={"fp32": True}, step_seconds={"sd1-fp32-plain": 21.5})
    for computer, line in ((None, "This computer was never checked"), (known, "a step in sd1 fp32 plain takes 21.50 s")):
        monkeypatch.setattr(machine, "known", lambda device, computer=computer: computer)
        assert cli.main(["info", str(tiny_sd1)]) == 0
        told = capsys.readouterr().out
        assert "On this computer: the CPU\nStable Diffusion 1.x at 512 pixels needs" in told and line in told
