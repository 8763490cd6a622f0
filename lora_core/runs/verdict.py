"""What the validation curves mean, right now, in one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lora_core.runs.curve import Point

Kind = Literal["early", "no_held_out", "learning", "flat", "memorising", "worse"]
ENOUGH = 3  # validations before a turn is more than chance
RISE = 0.01  # of the loss: less is noise


@dataclass(frozen=True)
class Verdict:
    """`kind` names the sentence; `step` is where it began, or where the best is."""

    kind: Kind
    step: int = 0


def verdict(held_out: list[Point], known: list[Point]) -> Verdict:
    """Judge validation losses by step: on held-out pictures and on training pictures, at fixed noise.

    Memorising is a held-out loss that has turned up by more than 1 % at two validations or more while the loss on
    training pictures went on falling; both up is a learning rate that is too high.
    """
    if held_out == known:
        return Verdict("no_held_out")
    if len(held_out) < ENOUGH:
        return Verdict("early")
    best = min(range(len(held_out)), key=lambda index: held_out[index][1])
    step, lowest = held_out[best]
    since = len(held_out) - 1 - best
    if since == 0:
        before = held_out[-ENOUGH][1]
        return Verdict("learning" if before - lowest > RISE / 4 * before else "flat", step)
    has_risen = since >= 2 and held_out[-1][1] > lowest * (1 + RISE)
    if not has_risen:
        return Verdict("learning" if since == 1 else "flat", step)
    return Verdict("memorising" if known[-1][1] < known[best][1] else "worse", step)
