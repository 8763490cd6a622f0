"""lora_core.check.machine: what a computer is, what fits it, and what its system does meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lora_core.check import machine
from lora_core.check import probe as probes
from lora_core.check.bench import Bench
from lora_core.check.findings import FAILED, GOOD, SLOWER, Finding, Report
from lora_core.check.probe import Probe
from lora_core.install.other_cards import AMD, INTEL, OtherCard
from lora_core.models.computer import Computer, Identity, step_key
from lora_core.models.device import Device, DeviceMemory
from lora_core.system import hardware, keep_awake, windows
from tests.support.played_cards import (
    APPLE,
    ARC,
    CARDS,
    GB,
    GTX_1650,
    RADEON,
    RTX_3060,
    RTX_5090,
    SILENT_ARC,
    Played,
)

CPU = Device("cpu", "the CPU")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Probe], Bench]:
    monkeypatch.setenv("TREINO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(keep_awake, "sleeps_after", lambda: None)
    return lambda probe: Bench(probe, Computer(Identity.of(probe.about)), time.monotonic() + 60)


def only(bench: Bench) -> Finding:
    (finding,) = bench.findings
    return finding


def test_the_heading_names_versions_processor_driver_and_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "driver", lambda: "NVIDIA 580.97")
    old = Device("cuda:1", "NVIDIA GeForce GTX 780", 3 * GB, works=False)
    told = [str(line) for line in machine.heading([*RTX_3060.here, old])]
    assert told[0].startswith("Versions: Treino ") and told[1].startswith("Processor: ")
    assert told[2:] == [
        "Driver: NVIDIA 580.97", "Graphics card: NVIDIA GeForce RTX 3060, 12 GB (cuda:0)",
        "Graphics card: NVIDIA GeForce GTX 780, 3 GB (cuda:1), which this PyTorch has no code for",
    ]  # fmt: skip


def test_the_heading_names_intels_driver_as_torch_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for others, told in (("", "Intel 1.15.38308"), ("NVIDIA 580.97", "NVIDIA 580.97, Intel 1.15.38308")):
        monkeypatch.setattr(hardware, "driver", lambda others=others: others)
        assert str(machine.heading([replace(ARC.about, driver="1.15.38308"), CPU])[2]) == f"Driver: {told}"


@pytest.mark.parametrize("name", CARDS)
def test_a_card_with_code_is_told_with_its_version(name: str, bench: Callable[[Probe], Bench]) -> None:
    made = bench(CARDS[name])
    machine.code(made)
    told = str(only(made).message)
    assert only(made).verdict == GOOD and CARDS[name].built in told and (CARDS[name].version or "version -") in told


def test_a_card_without_code_is_left_alone_and_told(bench: Callable[[Probe], Bench]) -> None:
    old = Device("cuda:0", "NVIDIA GeForce GTX 780", 3 * GB, works=False)
    made = bench(Played(CPU, (old, CPU), version="3.5"))
    machine.code(made)
    assert [finding.verdict for finding in made.findings] == [FAILED, GOOD]
    told = str(made.findings[0].message)
    assert "no code for NVIDIA GeForce GTX 780" in told and "3.5" in told and "sm_75, sm_80" in told
    assert "another build" in str(made.findings[0].decision)


RADEON_CARD, OLD_RADEON = OtherCard(AMD, "AMD card (gfx1100)", "gfx1100"), OtherCard(AMD, "AMD card (gfx906)", "gfx906")
ARC_CARD = OtherCard(INTEL, "Intel(R) Arc(TM) B580 Graphics")


@pytest.mark.parametrize(
    ("system", "version", "card", "decision"),
    [
        ("Linux", "2.13.0+cpu", RADEON_CARD, "pip install torch==2.13.0+rocm7.2 --extra-index-url https"),
        ("Linux", "2.13.0+rocm7.2", RADEON_CARD, "groups render and video"),
        ("Linux", "2.13.0+cpu", OLD_RADEON, "PyTorch has no build for it"),
        ("Windows", "2.13.0+cpu", OtherCard(AMD, "AMD Radeon RX 9070 XT"), "AMD has one: docs/installing.md"),
        ("Windows", "2.13.0+rocm10.0.0", OtherCard(AMD, "AMD Radeon RX 9070 XT"), "update its driver"),
        ("Linux", "2.13.0+cpu", ARC_CARD, "pip install torch==2.13.0+xpu --extra-index-url https"),
        ("Windows", "2.13.0", ARC_CARD, "pip install torch==2.13.0+xpu --extra-index-url https"),
        ("Windows", "2.13.0+xpu", ARC_CARD, "update its driver"),
    ],
)
def test_a_card_that_this_torch_does_not_see_is_told_with_what_would_help(
    system: str, version: str, card: OtherCard, decision: str, bench: Callable[[Probe], Bench],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(machine.torch, "__version__", version)
    monkeypatch.setattr(machine.platform, "system", lambda: system)
    monkeypatch.setattr(machine.platform, "machine", lambda: "AMD64" if system == "Windows" else "x86_64")
    made = bench(Played(CPU, (CPU,), hidden=card))
    machine.code(made)
    found = made.findings[-1]
    assert (
        found.verdict == SLOWER and str(found.message) == f"Not used: {card.name}; this PyTorch ({version}) does not see it"
    )
    assert decision in str(found.decision)
    lines = Report((), (found,), made.computer, 1.0).lines()
    assert decision in str(lines[1]), "nothing of it is hidden as private"


def test_only_where_torch_sees_no_card_the_system_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "find_other", lambda system: ARC_CARD)
    assert Probe(CPU, (CPU,)).unseen() == ARC_CARD
    assert Probe(CPU, (RTX_3060.about, CPU)).unseen() is None


@pytest.mark.parametrize(
    ("probe", "taken", "verdict"),
    [
        (RTX_3060, 1.0, GOOD), (GTX_1650, 1.0, GOOD), (RADEON, 1.0, GOOD), (ARC, 1.0, GOOD), (APPLE, 0.0, GOOD),
        (replace(RTX_3060, left=DeviceMemory(5 * GB, 12 * GB, 0)), 7.0, SLOWER),
    ],
)  # fmt: skip
def test_free_memory_is_what_the_driver_says_and_others_are_named(
    probe: Played, taken: float, verdict: str, bench: Callable[[Probe], Bench]
) -> None:
    made = bench(probe)
    machine.device_memory(made)
    assert only(made).verdict == verdict and made.computer.taken_by_others == int(taken * GB)
    assert probe.left and made.computer.free_bytes == probe.left.free + probe.left.held
    assert f"the driver take {taken:.1f} GB" in str(only(made).message)
    assert ("close programs" in str(only(made).decision)) == (verdict == SLOWER)


def test_a_driver_that_does_not_tell_what_is_free_is_told_and_all_counts(bench: Callable[[Probe], Bench]) -> None:
    made = bench(SILENT_ARC)
    made.computer = replace(made.computer, free_bytes=GB, taken_by_others=GB)  # by an earlier driver
    machine.device_memory(made)
    assert only(made).verdict == SLOWER and "6.0 GB; its driver does not tell" in str(only(made).message)
    assert "close programs" in str(only(made).decision)
    assert (made.computer.free_bytes, made.computer.taken_by_others) == (None, None)
    made.findings.clear()
    machine.models(made)
    assert next(found.message.key for found in made.findings) == "check.fits", "of what the card has"


def test_a_processor_has_the_computers_memory(bench: Callable[[Probe], Bench]) -> None:
    made = bench(Probe(CPU))
    machine.device_memory(made)
    assert (made.computer.free_bytes or 0) > 0 and "GB free" in str(only(made).message)


@pytest.mark.parametrize(
    ("probe", "free", "keys"),
    [
        (RTX_5090, 30 * GB, ["fits", "fits", "fits"]), (RTX_3060, 11 * GB, ["fits", "fits", "fits"]),
        (GTX_1650, 3 * GB, ["fits_recomputed", "fits_not", "fits_not"]), (RTX_3060, GB, ["fits_not"] * 3),
    ],
)  # fmt: skip
def test_what_fits_is_told_for_each_family(
    probe: Played, free: int, keys: list[str], bench: Callable[[Probe], Bench]
) -> None:
    made = bench(probe)
    made.computer = replace(made.computer, free_bytes=free)
    machine.models(made)
    assert [finding.message.key.removeprefix("check.") for finding in made.findings] == keys
    assert [finding.verdict == GOOD for finding in made.findings] == [key == "fits" for key in keys]


def test_what_was_proven_is_told_and_how_to_prove_it() -> None:
    assert "python treino.py check" in str(machine.proven(None)[0])
    known = Computer(Identity("a card", 0, "", "", ""), {"fp16": True, "bf16": False}, step_seconds={step_key("fp16"): 0.2})
    told = [str(line) for line in machine.proven(known)]
    assert told == ["Checked: a card; right in fp16", "Measured: a step in sd1 fp16 plain takes 0.20 s at one picture"]


@pytest.mark.parametrize(("promised", "verdict"), [(40 * GB, GOOD), (5 * GB, FAILED)])
def test_a_page_file_that_is_too_small_is_told_before_it_matters(
    promised: int, verdict: str, bench: Callable[[Probe], Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "promisable_bytes", lambda: promised)
    made = bench(RTX_3060)
    machine.surroundings(made)
    assert only(made).verdict == verdict and f"{promised / GB:.1f} GB" in str(only(made).message)
    assert ("page file" in str(only(made).decision)) == (verdict == FAILED)


@pytest.mark.parametrize(
    ("seconds", "can", "key", "decision"),
    [
        (0.0, False, "never_sleeps", "None"), (1800.0, True, "sleeps", "it is kept awake"),
        (1800.0, False, "sleeps", "switch that off"),
    ],
)  # fmt: skip
def test_a_computer_that_falls_asleep_is_kept_awake_or_told(
    seconds: float, can: bool, key: str, decision: str, bench: Callable[[Probe], Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keep_awake, "sleeps_after", lambda: seconds)
    monkeypatch.setattr(keep_awake, "can_keep_awake", lambda: can)
    made = bench(RTX_3060)
    machine.surroundings(made)
    assert only(made).message.key == f"check.{key}" and decision in str(only(made).decision)
    assert (only(made).verdict == SLOWER) == (decision == "switch that off")


@pytest.mark.parametrize(("share", "is_told"), [(0.1, False), (0.6, True)])
def test_a_busy_processor_is_told(share: float, is_told: bool, bench: Callable[[Probe], Bench]) -> None:
    made = bench(replace(RTX_3060, share=share))
    made.seconds(lambda: time.sleep(0.05), at_most=0.5)
    machine.others(made)
    assert made.is_disturbed is is_told and bool(made.findings) is is_told
    assert not is_told or "of the processor busy meanwhile" in str(only(made).message)
