"""lora_core.check.run: on each kind of card what is found is kept as decisions; nothing ends it but the person."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lora_core.check import disk, formats, machine, run, step
from lora_core.check.findings import FAILED, MOST_LINES, Report
from lora_core.check.kept import Kept, last
from lora_core.check.probe import Probe
from lora_core.events import Event, Phase
from lora_core.messages import LANGUAGES, Message, say
from lora_core.models.computer import known
from lora_core.models.device import Device
from tests.support.played_cards import APPLE, CARDS, GTX_1650, RADEON, RTX_3060, Played, computing_wrongly, tiny_sizes
from tests.support.played_graphs import play


@pytest.fixture(autouse=True)
def own_computer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TREINO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Probe, "others_seconds", lambda probe: 0.0)  # whatever runs beside the tests
    monkeypatch.setattr(machine, "models", lambda bench: None)  # of the real families; test_machine.py asks for them
    threads = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == threads


@pytest.fixture
def checked(tiny_sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Report]:
    play(monkeypatch)

    def check(
        probe: Probe, wants_stop: Callable[[], bool] = lambda: False, emit: Callable[[Event], None] = print
    ) -> Report:
        return run.of_device(probe, emit, wants_stop, tmp_path / "run", tiny_sizes(tiny_sd1))

    return check


def keys(report: Report) -> list[str]:
    return [finding.message.key.removeprefix("check.") for finding in report.findings]


@pytest.mark.parametrize("name", CARDS)
def test_a_card_of_each_kind_is_checked_to_its_end_and_known_afterwards(name: str, checked: Callable[..., Report]) -> None:
    probe = CARDS[name]
    report = checked(probe)
    assert report.is_whole and [finding for finding in report.findings if finding.verdict == FAILED] == []
    found = known(probe.about)
    assert found == report.computer and found is not None
    assert last(probe.about) == Kept(tuple(report.lines()), found.checked_at)
    expected = {"fp32": True, "fp16": True, "bf16": True} | ({"tf32": True} if probe.tf32_units else {})
    assert found.formats == expected and found.native_bf16 in (True, False)
    assert found.recomputed and found.eight_bit and found.host_bound is not None
    assert (found.graphs is not None) == probe.graphs, "where torch has none, none are tried"
    assert found.taken_by_others == (probe.left and probe.left.taken_by_others)
    ways = [finding.message for finding in report.findings if finding.message.key.startswith("check.way_")]
    assert len(ways) == 2 and all(dict(way.params)["before"] for way in ways), "where no peak is counted too"
    assert (found.memory_ratio is not None) == bool(probe.peaked)


def test_a_processor_is_checked_to_its_end(checked: Callable[..., Report]) -> None:
    report = checked(Probe(Device("cpu", "the CPU")))
    found = report.computer
    assert report.is_whole and [finding for finding in report.findings if finding.verdict == FAILED] == []
    assert found.formats["fp32"] and found.threads and found.vae_threads and found.recomputed and found.eight_bit
    assert found.graphs is None and found.host_bound is None and known(Device("cpu", "the CPU")) == found


def test_a_card_whose_fp16_is_no_number_trains_in_another_format(checked: Callable[..., Report]) -> None:
    with computing_wrongly():
        report = checked(GTX_1650)
    found = known(GTX_1650.about)
    assert found and found.formats["fp16"] is False and found.formats["fp32"] is True
    assert "format_not_finite" in keys(report)
    assert "step_not_finite" not in keys(report), "the step is not even tried in fp16"
    decisions = [str(finding.decision) for finding in report.findings if finding.decision]
    assert "trainings take another number format than fp16 here" in decisions


def test_a_card_that_computes_wrongly_even_in_fp32_is_told(checked: Callable[..., Report]) -> None:
    report = checked(replace(RTX_3060, times=1.01))
    wrong = [finding for finding in report.findings if finding.verdict == FAILED]
    assert any(str(each.message).startswith("fp32: off by 1.0% in ") for each in wrong)
    assert "update its driver" in str(wrong[0].decision) and report.computer.formats["fp32"] is False


@pytest.mark.parametrize("part", ["disk", "formats", "code", "memory", "surroundings"])
def test_a_part_that_fails_is_a_sentence_and_the_others_go_on(
    part: str, checked: Callable[..., Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError(f"CUDA error: launch failure in {Path.home() / 'secret'}\nsecond line")

    where = {"disk": (disk, "measure"), "formats": (formats, "measure"), "memory": (machine, "device_memory")}
    monkeypatch.setattr(*where.get(part, (machine, part)), fails)
    report = checked(RADEON)
    assert report.is_whole and "part_failed" in keys(report) and report.computer.recomputed
    told = report.text()
    assert "launch failure" in told and "secret" not in told and "second line" not in told


@pytest.mark.parametrize(
    ("name", "lost"),
    [("_graph", "graphs"), ("_host_bound", "host_bound"), ("_recomputed", "recomputed"), ("_eight_bit", "eight_bit")],
)
def test_a_way_that_fails_is_not_taken(
    name: str, lost: str, checked: Callable[..., Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> bool:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(step, name, fails)
    report = checked(RTX_3060)
    assert not getattr(report.computer, lost) and "part_failed" in keys(report)
    others = {"graphs", "host_bound", "recomputed", "eight_bit"} - {lost}
    assert all(getattr(report.computer, other) is not None for other in others)


def test_where_the_step_itself_fails_what_was_found_before_is_kept(
    checked: Callable[..., Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(step, "Trial", fails)
    for probe in (APPLE, Probe(Device("cpu", "the CPU"))):
        report = checked(probe)
        assert report.is_whole and "part_failed" in keys(report) and report.computer.formats["fp32"]
        assert report.computer.graphs is None and not report.computer.step_seconds


def test_it_stops_when_asked_and_keeps_what_was_found(checked: Callable[..., Report]) -> None:
    asked = 0
    counts = []
    for stop_at in (1, 5, 12, 25):
        asked = 0

        def wants_stop(at: int = stop_at) -> bool:
            nonlocal asked
            asked += 1
            return asked >= at

        report = checked(RTX_3060, wants_stop)
        counts.append(len(report.findings))
        assert not report.is_whole and asked == stop_at and "stopped" in str(report.lines()[-1])
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] > 5
    found = known(RTX_3060.about)
    assert found and found.formats["fp16"]


def test_a_check_that_is_stopped_loses_nothing_of_the_one_before(checked: Callable[..., Report]) -> None:
    before = checked(RTX_3060).computer
    after = checked(RTX_3060, lambda: True).computer
    assert after == before and before.eight_bit
    asked = iter([False] * 8)
    after = checked(RTX_3060, lambda: next(asked, True)).computer
    assert known(RTX_3060.about) == after and after.eight_bit and after.checked_at > before.checked_at


def test_ctrl_c_stops_it_too(checked: Callable[..., Report], monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(formats, "measure", pressed)
    assert not checked(RADEON).is_whole


def test_its_progress_goes_up_to_its_end(checked: Callable[..., Report]) -> None:
    told: list[Event] = []
    checked(RTX_3060, emit=told.append)
    phases = [event for event in told if isinstance(event, Phase)]
    done = [event.done for event in phases]
    assert phases and len(phases) == len(told) and done == sorted(done) and phases[-1].done == phases[-1].total
    assert all(event.name == "check" and event.done <= event.total for event in phases)
    for event in phases:
        assert isinstance(event.detail, Message)
        assert all(say(event.detail, language) for language in LANGUAGES)


def test_when_the_time_is_up_what_is_left_is_told_and_left_out(
    checked: Callable[..., Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "CARD_S", 0.0)
    report = checked(RTX_3060)
    assert keys(report).count("no_time") == 2 and report.computer.eight_bit is None
    monkeypatch.setattr(run, "PROCESSOR_S", 0.0)
    report = checked(Probe(Device("cpu", "the CPU")))
    assert "no_time" in keys(report) and report.computer.eight_bit is None and not report.computer.step_seconds


@pytest.mark.parametrize("name", CARDS)
def test_the_report_is_text_of_one_page_in_both_languages_and_json(name: str, checked: Callable[..., Report]) -> None:
    probe: Played = CARDS[name]
    report = checked(probe)
    assert probe.about.title in report.text() and len(report.text().splitlines()) <= MOST_LINES
    assert all(say(line, "pt-BR") for line in report.lines())
    table = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert table["whole"] and table["computer"]["formats"]["fp32"] and len(table["findings"]) == len(report.findings)
    assert {"key", "params", "text", "verdict"} <= table["findings"][0].keys()


def test_it_leaves_the_random_numbers_as_they_were(checked: Callable[..., Report]) -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    checked(RADEON)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_check_is_over_in_its_time(checked: Callable[..., Report]) -> None:
    began = time.monotonic()
    report = checked(RTX_3060)
    assert report.seconds <= time.monotonic() - began <= run.CARD_S
