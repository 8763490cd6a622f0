"""lora_core.check.formats: a format is right where it is near fp32 in every part, and native where it is quick."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lora_core.check import formats
from lora_core.check.bench import Bench
from lora_core.check.findings import FAILED, GOOD, SLOWER
from lora_core.check.formats import Format, Size, is_native, named, tried
from lora_core.check.probe import Probe
from lora_core.models.computer import Computer, Identity
from lora_core.models.device import Device
from tests.support.played_cards import APPLE, CARDS, GTX_1650, RADEON, RTX_3060, Played, computing_wrongly, tiny_sizes

CPU = Device("cpu", "the CPU")


@pytest.fixture
def size(tiny_sd1: Path) -> Size:
    return Size(tiny_sizes(tiny_sd1).shapes, side=8, vae_side=64)


@pytest.fixture
def bench(tiny_sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Probe], Bench]:
    monkeypatch.setenv("TREINO_CACHE", str(tmp_path / "cache"))
    sizes = tiny_sizes(tiny_sd1)
    return lambda probe: Bench(probe, Computer(Identity.of(probe.about)), time.monotonic() + 60, sizes)


@pytest.mark.parametrize("name", formats.DTYPES)
def test_what_rounding_misses_is_within_the_bounds(name: str, size: Size) -> None:
    found = tried(name, RTX_3060, size)
    assert found.is_right and found.seconds > 0 and (found.missed > 0) == (name in ("fp16", "bf16"))


@pytest.mark.parametrize(("times", "missed"), [(float("nan"), float("inf")), (1.5, 0.49)])
def test_numbers_that_are_wrong_are_noticed_in_any_part(times: float, missed: float, size: Size) -> None:
    with computing_wrongly(times, (torch.float16,)):
        found = tried("fp16", GTX_1650, size)
    assert not found.is_right and found.worst == "conv" and found.missed >= missed
    assert not tried("fp16", replace(GTX_1650, times=times), size).is_right


def test_each_device_is_asked_for_what_it_has() -> None:
    assert {name: named(probe) for name, probe in CARDS.items()} == {
        "RTX 3060": ["fp32", "fp16", "bf16", "tf32"], "RTX 4060": ["fp32", "fp16", "bf16", "tf32"],
        "RTX 5090": ["fp32", "fp16", "bf16", "tf32"], "GTX 1650": ["fp32", "fp16", "bf16"],
        "Radeon": ["fp32", "fp16", "bf16"], "Arc": ["fp32", "fp16", "bf16"], "silent Arc": ["fp32", "fp16", "bf16"],
        "Apple": ["fp32", "fp16", "bf16"],
    }  # fmt: skip


@pytest.mark.parametrize(("units", "expected"), [(True, ["fp32", "bf16"]), (False, ["fp32"])])
def test_a_processor_is_asked_for_bf16_where_it_has_units(
    units: bool, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Probe, "native_bf16", lambda probe: units)
    assert named(Probe(CPU)) == expected


@pytest.mark.parametrize(
    ("bf16_s", "says", "native"), [(1.0, True, True), (1.9, True, True), (2.1, True, False), (1.0, False, False)]
)
def test_bf16_is_native_where_the_device_says_so_and_is_as_quick(bf16_s: float, says: bool, native: bool) -> None:
    found = {"fp16": Format("fp16", 0, "conv", 1.0, True), "bf16": Format("bf16", 0, "conv", bf16_s, True)}
    assert is_native(found, replace(RADEON, bf16=says)) is native
    on_cpu = {"fp32": replace(found["fp16"], name="fp32"), "bf16": found["bf16"]}
    assert is_native(on_cpu, Played(CPU, bf16=says)) is native


def test_a_format_that_is_right_is_known_and_told(bench: Callable[[Probe], Bench]) -> None:
    made = bench(RTX_3060)
    formats.measure(made)
    assert made.computer.formats == {"fp32": True, "fp16": True, "bf16": True, "tf32": True}
    assert {finding.verdict for finding in made.findings} == {GOOD}


def test_a_format_that_is_no_number_is_not_taken(bench: Callable[[Probe], Bench]) -> None:
    made = bench(GTX_1650)
    with computing_wrongly():
        formats.measure(made)
    assert made.computer.formats == {"fp32": True, "fp16": False, "bf16": True} and made.computer.native_bf16 is False
    (finding,) = [each for each in made.findings if each.verdict == FAILED]
    assert str(finding.message) == "fp16: not finite in convolution"
    assert str(finding.decision) == "trainings take another number format than fp16 here"
    assert "check.emulated_bf16" in [each.message.key for each in made.findings]


@pytest.mark.parametrize(
    ("refusal", "why"),
    [
        (TypeError("BFloat16 is not supported on MPS\nmore"), "BFloat16 is not supported on MPS"),
        (NotImplementedError(), "NotImplementedError"),
    ],
    ids=["in words", "without words"],
)
def test_a_format_that_the_device_refuses_is_not_taken(
    refusal: Exception, why: str, bench: Callable[[Probe], Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(name: str, probe: Probe, size: Size) -> Format:
        if name == "bf16":
            raise refusal
        return Format(name, 0.0, "conv", 1.0, True)

    monkeypatch.setattr(formats, "tried", refused)
    made = bench(APPLE)
    formats.measure(made)
    assert made.computer.formats == {"fp32": True, "fp16": True, "bf16": False} and made.computer.native_bf16 is None
    (finding,) = [each for each in made.findings if each.verdict == SLOWER]
    assert str(finding.message) == f"bf16: the device does not compute in it ({why})"


def test_a_processor_without_units_for_bf16_computes_in_fp32(
    bench: Callable[[Probe], Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Probe, "native_bf16", lambda probe: False)
    made = bench(Probe(CPU))
    formats.measure(made)
    assert made.computer.formats == {"fp32": True} and made.computer.native_bf16 is False
    assert str(made.findings[-1].decision) == "trainings compute in fp32"
