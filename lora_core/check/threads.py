"""With how many threads a processor is the quickest: one, one for each physical core, or one for each logical core.

More are not always quicker: logical cores share their arithmetic units, and threads wait for each other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from lora_core.check.bench import Bench
from lora_core.check.trial import Trial, encoder_of
from lora_core.messages import Message
from lora_core.system import hardware

ENOUGH_S = 8.0  # what is to be left for the other parts
NEARLY = 1.03  # times the quickest: fewer threads are taken, which leave the computer to other work


@dataclass(frozen=True)
class Tried:
    """Seconds by threads. is_proof: all counts were tried, each at least once while no other program kept cores busy."""

    seconds: dict[int, float]
    is_proof: bool


def counts() -> list[int]:
    return sorted({1, hardware.physical_cores(), hardware.logical_cores()})


def quickest(bench: Bench, trial: Trial) -> float:
    """Find it out for a step and for the VAE, and compute with the step's from here on; seconds of such a step."""
    step = _tried(bench, trial.step)
    vae: Any = encoder_of(bench.sizes.shapes, torch.float32, bench.probe.device)
    pixels = torch.zeros(1, 3, bench.sizes.vae, bench.sizes.vae)

    @torch.no_grad()
    def encode() -> object:
        return vae.encode(pixels)

    encode()
    encoding = _tried(bench, encode)
    torch.set_num_threads(best(step.seconds))
    _tell(bench, "threads", step)
    _tell(bench, "vae_threads", encoding)
    return min(step.seconds.values())


def _tell(bench: Bench, field: str, tried: Tried) -> None:
    chosen = best(tried.seconds)
    decision = Message("check.threads_taken", count=chosen) if tried.is_proof else None
    if decision:
        bench.decide(**{field: chosen})
    bench.good(Message(f"check.of_{field}", times=_told(tried.seconds)), decision)


def best(seconds: dict[int, float]) -> int:
    """The fewest threads that are as quick as the quickest, or nearly so."""
    return min(count for count, each in seconds.items() if each <= NEARLY * min(seconds.values()))


def _tried(bench: Bench, work: Callable[[], object]) -> Tried:
    """Measure in two rounds, for what else the computer does meets all counts alike.

    Fewer threads are left out where the time is short; what was measured undisturbed counts before what was not.
    """
    laps: dict[int, list[tuple[bool, float]]] = {}
    for count in [*sorted(counts(), reverse=True), *counts()]:
        quickest = min((lap for each in laps.values() for _, lap in each), default=0.0)
        if laps and bench.left() < ENOUGH_S + quickest * max(laps) / count:
            break
        torch.set_num_threads(count)
        seconds = bench.seconds(work, at_most=0.4, laps=50)
        laps.setdefault(count, []).append((bench.is_disturbed, seconds))
    chosen = {count: min(each) for count, each in laps.items()}
    is_proof = len(laps) == len(counts()) and not any(is_disturbed for is_disturbed, _ in chosen.values())
    return Tried({count: seconds for count, (_, seconds) in chosen.items()}, is_proof)


def _told(seconds: dict[int, float]) -> Message:
    each = [Message("check.threads_time", count=count, seconds=seconds[count]) for count in sorted(seconds)]
    return functools.reduce(lambda first, then: Message("check.threads_and", first=first, then=then), each)
