"""lora_core.check.threads: the quickest number of threads, decided where nothing else keeps the processor busy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from lora_core.check import threads
from lora_core.check.bench import Bench
from lora_core.check.trial import Case, Trial
from lora_core.models.computer import Computer, Identity
from lora_core.models.device import Device
from lora_core.system import hardware
from tests.support.played_cards import Played, tiny_sizes

CPU = Device("cpu", "the CPU")


@pytest.fixture(autouse=True)
def cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Four physical cores, eight logical ones."""
    monkeypatch.setattr(hardware, "physical_cores", lambda: 4)
    monkeypatch.setattr(hardware, "logical_cores", lambda: 8)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def bench(tiny_sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Bench]:
    """A bench on which a lap takes the seconds of the table, by threads; the VAE's are half of a step's."""
    monkeypatch.setenv("TREINO_CACHE", str(tmp_path / "cache"))

    def make(seconds: dict[int, float], disturbed: Callable[[], bool] = lambda: False, left: float = 60.0) -> Bench:
        made = Bench(Played(CPU), Computer(Identity.of(CPU)), time.monotonic() + left, tiny_sizes(tiny_sd1))

        def measured(work: object, at_most: float, laps: int) -> float:
            made.is_disturbed = disturbed()
            return seconds[torch.get_num_threads()] * (3 if made.is_disturbed else 1)

        monkeypatch.setattr(made, "seconds", measured)
        return made

    return make


def trial(bench: Bench) -> Trial:
    return Trial(Case(64, torch.device("cpu"), shapes=bench.sizes.shapes))


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({1: 4.0, 4: 1.2, 8: 1.0}, 8), ({1: 4.0, 4: 1.0, 8: 1.5}, 4), ({1: 1.0, 4: 2.0, 8: 3.0}, 1),
        ({1: 4.0, 4: 1.02, 8: 1.0}, 4), ({1: 4.0, 4: 1.04, 8: 1.0}, 8),
    ],
)  # fmt: skip
def test_the_quickest_is_taken_and_of_equals_the_fewest(
    seconds: dict[int, float], chosen: int, bench: Callable[..., Bench]
) -> None:
    made = bench(seconds)
    assert threads.quickest(made, trial(made)) == min(seconds.values())
    assert made.computer.threads == made.computer.vae_threads == torch.get_num_threads() == chosen
    told = [str(finding.message) for finding in made.findings]
    assert told[0] == "A step by threads: " + ", ".join(f"{n}: {each:.2f} s" for n, each in seconds.items())


def test_on_a_busy_processor_nothing_is_decided(bench: Callable[..., Bench]) -> None:
    """Threads wait for each other where cores are taken, and a single one looks the quickest."""
    made = bench({1: 1.0, 4: 2.0, 8: 3.0}, lambda: True)
    threads.quickest(made, trial(made))
    assert made.computer.threads is None and made.computer.vae_threads is None
    assert len(made.findings) == 2 and not any(finding.decision for finding in made.findings)


def test_a_round_that_was_disturbed_does_not_count_beside_one_that_was_not(bench: Callable[..., Bench]) -> None:
    asked = [0]

    def disturbed() -> bool:
        asked[0] += 1
        return asked[0] % 6 in (1, 2, 3)  # the first of two rounds, of three counts each

    made = bench({1: 4.0, 4: 1.2, 8: 1.0}, disturbed)
    threads.quickest(made, trial(made))
    assert made.computer.threads == 8 and made.computer.vae_threads == 8


def test_counts_there_is_no_time_for_decide_nothing(bench: Callable[..., Bench]) -> None:
    made = bench({1: 4.0, 4: 1.2, 8: 1.0}, left=1.0)
    threads.quickest(made, trial(made))
    assert made.computer.threads is None and str(made.findings[0].message) == "A step by threads: 8: 1.00 s"


def test_a_processor_of_one_core_has_one_count(bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "physical_cores", lambda: 1)
    monkeypatch.setattr(hardware, "logical_cores", lambda: 1)
    made = bench({1: 4.0})
    threads.quickest(made, trial(made))
    assert made.computer.threads == 1
