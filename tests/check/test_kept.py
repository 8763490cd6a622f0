"""lora_core.check.kept: the last whole report of each device is there after a restart, in every language."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lora_core.check.findings import MOST_LINES, Report
from lora_core.check.kept import Kept, keep, last
from lora_core.messages import say
from lora_core.models import computer
from lora_core.models.computer import Computer, Identity, computer_file, step_key
from lora_core.models.device import Device
from lora_core.system import files
from tests.support.played_cards import ARC, GTX_1650, RTX_3060
from tests.support.played_check import FOUND


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREINO_CACHE", str(tmp_path / "cache"))


def report_of(device: Device, at: float = 1.7e9, is_whole: bool = True, keeps: bool = True) -> Report:
    """As a check makes one that has just ended."""
    found = Computer(Identity.of(device), {"fp16": True}, step_seconds={step_key("fp16"): 0.2}, checked_at=at)
    assert computer.keep(found)
    report = Report((), FOUND, found, 21.0, is_whole)
    if keeps:
        keep(report)
    return report


def test_it_is_read_as_it_was_in_every_language() -> None:
    assert last(RTX_3060.about) is None
    report = report_of(RTX_3060.about)
    found = last(RTX_3060.about)
    assert found == Kept(tuple(report.lines()), 1.7e9) and len(found.lines) <= MOST_LINES
    assert [say(line, "pt-BR") for line in found.lines] == [say(line, "pt-BR") for line in report.lines()]


def test_each_device_has_its_own_and_a_later_one_takes_its_place() -> None:
    for probe, at in ((RTX_3060, 1.0), (ARC, 2.0), (RTX_3060, 3.0)):
        report_of(probe.about, at)
    assert [found and found.at for found in map(last, (RTX_3060.about, ARC.about, GTX_1650.about))] == [3.0, 2.0, None]


def test_with_another_driver_nothing_is_told() -> None:
    report_of(ARC.about)
    assert last(ARC.about) and last(replace(ARC.about, driver="1.16")) is None


def test_a_check_that_was_stopped_leaves_the_report_before_it() -> None:
    whole = report_of(RTX_3060.about, 1.0)
    report_of(RTX_3060.about, 2.0, is_whole=False)
    assert last(RTX_3060.about) == Kept(tuple(whole.lines()), 1.0)


@pytest.mark.parametrize("damage", ["", "[]", "{", '{"x": 1}', "lines", "key"])
def test_without_a_report_the_figures_are_told(damage: str) -> None:
    report_of(RTX_3060.about, keeps=bool(damage))
    path = computer_file().with_name("computer_reports.json")
    if damage in ("lines", "key"):
        ((name, row),) = json.loads(path.read_text(encoding="utf-8")).items()
        row["lines"] = None if damage == "lines" else [{"key": "check.of_another_version", "params": {}}]
        path.write_text(json.dumps({name: row}), encoding="utf-8")
    elif damage:
        path.write_text(damage, encoding="utf-8")
    found = last(RTX_3060.about)
    assert found and found.at == 1.7e9
    assert [str(line) for line in found.lines] == [
        "Checked: NVIDIA GeForce RTX 3060; right in fp16",
        "Measured: a step in sd1 fp16 plain takes 0.20 s at one picture",
    ]


def test_a_disk_that_takes_nothing_ends_no_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    report = report_of(RTX_3060.about, keeps=False)
    monkeypatch.setattr(files, "write_text_whole", full)
    keep(report)
    assert last(RTX_3060.about)
