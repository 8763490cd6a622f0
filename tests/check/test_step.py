"""lora_core.check.step: each way of a step, held against the plain one; the decision that follows from each outcome."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lora_core.check import step
from lora_core.check.bench import Bench
from lora_core.check.findings import FAILED, GOOD, SLOWER, Finding
from lora_core.check.trial import Trial
from lora_core.models.computer import EIGHT_BIT, GRAPH, RECOMPUTED, Computer, Identity
from lora_core.models.device import DeviceMemory
from lora_core.training.engine.cuda_graphs import CudaGraphStepper
from tests.support.played_cards import GB, GTX_1650, RTX_3060, RTX_4060, Played, tiny_sizes
from tests.support.played_graphs import play

ALL_RIGHT = {"fp32": True, "fp16": True, "bf16": True}


@pytest.fixture(autouse=True)
def graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREINO_CACHE", str(tmp_path / "cache"))
    play(monkeypatch)


@pytest.fixture
def bench(tiny_sd1: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Bench]:
    """A bench for a card; `seconds` of the plain step, of the smallest picture's, of the graph's."""

    def make(probe: Played = RTX_3060, plain: float = 1.0, host: float = 0.9, graph: float = 0.5) -> Bench:
        made = Bench(
            probe, Computer(Identity.of(probe.about), ALL_RIGHT, native_bf16=probe.bf16), time.monotonic() + 100,
            tiny_sizes(tiny_sd1),
        )  # fmt: skip

        def seconds(work: Any, at_most: float, laps: int = 10) -> float:
            work()
            trial: Trial = work.__self__
            if isinstance(trial.session.stepper, CudaGraphStepper):
                return graph
            is_small = trial.session.training[0].views[0][0].shape[-1] * 8 == made.sizes.least
            return host if is_small else plain

        monkeypatch.setattr(made, "seconds", seconds)
        return made

    return make


def told(bench: Bench, key: str) -> Finding:
    (found,) = [each for each in bench.findings if each.message.key == f"check.{key}"]
    return found


def test_a_graph_that_is_right_and_quicker_is_taken(bench: Callable[..., Bench]) -> None:
    made = bench(RTX_4060)
    step.on_card(made)
    assert made.computer.graphs is True and made.computer.host_bound is True
    assert told(made, "graph").verdict == GOOD and str(told(made, "graph").decision) == "steps run as graphs"


@pytest.mark.parametrize(("graph", "taken"), [(0.94, True), (0.96, False), (1.2, False)])
def test_a_graph_has_to_be_quicker_by_more_than_chance(graph: float, taken: bool, bench: Callable[..., Bench]) -> None:
    made = bench(graph=graph)
    step.on_card(made)
    assert made.computer.graphs is taken and told(made, "graph").verdict == (GOOD if taken else SLOWER)


def test_which_of_host_and_card_is_the_slower_one(bench: Callable[..., Bench]) -> None:
    for host, is_bound in ((0.85, True), (0.5, False)):
        made = bench(host=host)
        step.on_card(made)
        assert made.computer.host_bound is is_bound
        assert told(made, "host_slower" if is_bound else "card_slower")


def test_a_graph_that_comes_to_other_gradients_is_not_taken(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = Trial.learn

    def twisted(trial: Trial) -> tuple[float, Tensor]:
        loss, gradients = learn(trial)
        return loss, gradients * (1.05 if isinstance(trial.session.stepper, CudaGraphStepper) else 1.0)

    monkeypatch.setattr(Trial, "learn", twisted)
    made = bench()
    step.on_card(made)
    assert made.computer.graphs is False and "off by 5.0%" in str(told(made, "graph_differs").message)


def test_a_graph_that_keeps_its_memory_is_not_taken(bench: Callable[..., Bench]) -> None:
    memory = [10 * GB]

    class Leaking(Played):
        def memory(self) -> DeviceMemory:
            memory[0] -= GB // 4
            return DeviceMemory(memory[0], 12 * GB, 0)

    made = bench(Leaking(RTX_3060.about))
    step.on_card(made)
    assert made.computer.graphs is False and str(told(made, "graph_stays").message).endswith("keeps 512 MB")


def test_a_graph_that_cannot_be_captured_is_not_taken_and_says_why(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: 1 // 0)
    made = bench()
    step.on_card(made)
    assert made.computer.graphs is False
    assert any(" by zero" in str(each.message) and each.verdict == SLOWER for each in made.findings)


def test_the_step_is_known_in_each_way_and_format(bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "whole_arithmetic", lambda case, side: 2 * counted)
    counted = 10.0

    class Counted:
        flops = counted

        def __enter__(self) -> Counted:
            return self

        def __exit__(self, *_: object) -> None:
            """Nothing to undo."""

    monkeypatch.setattr(step, "Arithmetic", Counted)
    made = bench()
    step.on_card(made)
    known = made.computer
    assert known.seconds("fp16") == 2.0 and known.seconds("fp16", GRAPH) == 1.0, "twice the parts that were measured"
    assert known.seconds("fp16", RECOMPUTED) == known.seconds("fp16", EIGHT_BIT) == 2.0
    assert known.seconds("bf16") == 2.0 and known.seconds("bf16", GRAPH) is None and known.seconds("fp32") is None


@pytest.mark.parametrize(
    ("formats", "native", "first"),
    [
        (ALL_RIGHT, True, ["fp16", "bf16", "fp32"]), ({**ALL_RIGHT, "fp16": False}, True, ["bf16", "fp32"]),
        ({**ALL_RIGHT, "fp16": False}, False, ["fp32"]), ({}, None, ["fp32"]),
    ],
)  # fmt: skip
def test_formats_that_are_not_right_or_emulated_are_not_stepped_in(
    formats: dict[str, bool], native: bool | None, first: list[str], bench: Callable[..., Bench]
) -> None:
    made = bench()
    made.computer = replace(made.computer, formats=formats, native_bf16=native)
    assert step._formats_of_card(made) == first


def test_where_a_step_gives_no_finite_gradients_the_next_format_is_taken(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = Trial.learn

    def overflowing(trial: Trial) -> tuple[float, Tensor]:
        loss, gradients = learn(trial)
        return loss, gradients * (float("nan") if trial.case.dtype == torch.float16 else 1.0)

    monkeypatch.setattr(Trial, "learn", overflowing)
    made = bench(GTX_1650)
    step.on_card(made)
    assert made.computer.formats["fp16"] is False and told(made, "step_not_finite").verdict == FAILED
    assert made.computer.eight_bit and made.computer.graphs, "in fp32, which comes next"


def test_gradients_that_overflow_with_one_scale_are_tried_with_another(bench: Callable[..., Bench], tiny_sd1: Path) -> None:
    made = bench()
    trial = Trial(step.Case(64, torch.device("cpu"), torch.float16, shapes=made.sizes.shapes))
    for parameter in trial.session.parameters.values():
        parameter.data *= 10.0
    trial.scale_by(2.0**30)
    assert not torch.isfinite(trial.learn()[1]).all()
    assert torch.isfinite(step._learned(trial)[1]).all()


@pytest.mark.parametrize(("way", "field"), [("recompute", "recomputed"), ("eight_bit", "eight_bit")])
def test_a_way_that_comes_to_something_else_is_not_used(
    way: str, field: str, bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = Trial.learn
    is_on = [False]
    recompute = Trial.recompute

    def noted(trial: Trial, **settings: object) -> None:
        is_on[0] = True
        recompute(trial, **settings)

    def twisted(trial: Trial) -> tuple[float, Tensor]:
        loss, gradients = learn(trial)
        is_wrong = trial.case.config.eight_bit_base if way == "eight_bit" else is_on[0]
        return loss, gradients * (1.5 if is_wrong else 1.0)

    monkeypatch.setattr(Trial, "recompute", noted)
    monkeypatch.setattr(Trial, "learn", twisted)
    made = bench()
    step.on_card(made)
    assert getattr(made.computer, field) is False and told(made, f"way_{field}").verdict == FAILED
    assert "not used" in str(told(made, f"way_{field}").decision)


def whole(monkeypatch: pytest.MonkeyPatch, peak_step: int) -> None:
    """Let it be counted that the whole step takes so much."""
    monkeypatch.setattr(step, "memory", lambda *_, **__: SimpleNamespace(peak_step=peak_step))


def test_measured_memory_is_held_against_the_counted_one(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole(monkeypatch, 2 * GB)
    made = bench(replace(RTX_3060, peaked=3 * GB))
    step.on_card(made)
    assert made.computer.memory_ratio == 1.5
    (first, _) = [str(each.message) for each in made.findings if each.message.key == "check.peak"]
    assert first == "It took 3.00 GB at its worst moment; counted were 2.00 GB (1.50 times)"


@pytest.mark.parametrize(("peak_step", "is_whole"), [(GB, True), (10 * GB, True), (11 * GB, False)])
def test_the_whole_step_is_taken_where_it_finds_room(
    peak_step: int, is_whole: bool, bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole(monkeypatch, peak_step)
    assert step._has_room(bench(RTX_3060), "fp16") is is_whole  # 11 GB are free, and one is kept back


def test_a_card_that_is_full_after_all_is_tried_with_parts(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole(monkeypatch, GB)
    tried: list[bool] = []
    make = step.Trial

    def full(case: Any) -> Trial:
        tried.append(case.is_whole)
        if case.is_whole:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return make(case)

    monkeypatch.setattr(step, "Trial", full)
    made = bench()
    step.on_card(made)
    assert tried[:2] == [True, False] and not [each for each in made.findings if each.verdict == FAILED]
    assert made.computer.recomputed and made.computer.memory_ratio is None


def test_what_other_programs_disturbed_is_told_and_not_kept(bench: Callable[..., Bench]) -> None:
    made = bench()
    for is_disturbed in (True, False):
        made.is_disturbed = is_disturbed
        step._tell_parts(made, "fp32", 2.0, 6.0)
        finding = made.findings[-1]
        assert "takes about 12.0 s (a part of it was measured, 2.00 s)" in str(finding.message)
        assert made.computer.seconds("fp32") == (None if is_disturbed else 12.0)
        assert ("not kept" in str(finding.decision)) == is_disturbed


def test_a_processor_tells_what_it_had_no_time_for(bench: Callable[..., Bench]) -> None:
    made = bench()
    made.deadline = 0.0
    assert not step._has_time(made, 1.0, "eight_bit")
    assert str(told(made, "no_time").message) == "Left out, for the time was up: the base model in 8 bits"
    made.deadline = time.monotonic() + 60
    assert step._has_time(made, 1.0, "eight_bit")
