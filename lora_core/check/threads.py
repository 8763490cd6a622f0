"""With how many threads a processor is the quickest: one, one for each physical core, or one for each logical core.

More are not always quicker: logical cores share their arithmetic units, and threads wait for each other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from lora_core.check.bench import Bench
from lora_core.check.machine import BUSY
from lora_core.check.trial import Trial, encoder_of
from lora_core.messages import Message
from lora_core.system import hardware

ENOUGH_S = 8.0  # what is to be left for the other parts
NEARLY = 1.03  # times the quickest: fewer threads are taken, which leave the computer to other work


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
    bench.busy = max(bench.busy, bench.probe.busy())
    torch.set_num_threads(best(step))
    _tell(bench, "threads", step)
    _tell(bench, "vae_threads", encoding)
    return min(step.values())


def _tell(bench: Bench, field: str, seconds: dict[int, float]) -> None:
    """Nothing is proven by a single count that there was time for, nor while other programs keep cores busy."""
    chosen = best(seconds)
    is_proven = len(seconds) == len(counts()) and bench.busy <= BUSY
    decision = Message("check.threads_taken", count=chosen) if is_proven else None
    if decision:
        bench.decide(**{field: chosen})
    bench.good(Message(f"check.of_{field}", times=_told(seconds)), decision)


def best(seconds: dict[int, float]) -> int:
    """The fewest threads that are as quick as the quickest, or nearly so."""
    return min(count for count, each in seconds.items() if each <= NEARLY * min(seconds.values()))


def _tried(bench: Bench, work: Callable[[], object]) -> dict[int, float]:
    """Seconds by threads, the quickest of two rounds: what else the computer does meets all counts alike.

    Fewer threads are left out where the time is short.
    """
    found: dict[int, float] = {}
    for count in [*sorted(counts(), reverse=True), *counts()]:
        if found and bench.left() < ENOUGH_S + min(found.values()) * max(found) / count:
            break
        torch.set_num_threads(count)
        seconds = bench.seconds(work, at_most=0.5, laps=3)
        found[count] = min(seconds, found.get(count, seconds))
    return found


def _told(seconds: dict[int, float]) -> Message:
    each = [Message("check.threads_time", count=count, seconds=seconds[count]) for count in sorted(seconds)]
    return functools.reduce(lambda first, then: Message("check.threads_and", first=first, then=then), each)
