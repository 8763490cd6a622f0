"""What a validation measures: how many pictures, at how many timesteps. Needs no torch, for the estimates count with it.

It is chosen once, at the start of a run, and kept in its checkpoints: losses of one run are comparable only when all were
measured on the same draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

TIMESTEPS = 8  # evenly over the schedule, per picture
FEWER_TIMESTEPS = 4  # before pictures are left out
MOST_PICTURES = 16
LATENTS_AT_ONCE = 2 * 64 * 64  # two timesteps of a picture of 512 pixels: no more memory than the leanest step takes
MOST_SHARE = 0.03  # of a run's time
SOON = 3.0  # steps' worth: what takes longer does not stand between Start and the first step


@dataclass(frozen=True)
class Measure:
    """So many timesteps of each of so many held-out and training pictures."""

    timesteps: int = TIMESTEPS
    held_out: int = MOST_PICTURES
    trained: int = MOST_PICTURES

    @property
    def passes(self) -> int:
        """Predictions for one picture at one timestep, each without gradients."""
        return self.timesteps * (self.held_out + self.trained)


def whole(held_out: int, trained: int) -> Measure:
    """Of so many pictures as much as is ever measured."""
    return Measure(TIMESTEPS, min(MOST_PICTURES, held_out), min(MOST_PICTURES, max(held_out, 4), trained))


def measure(held_out: int, trained: int, pass_steps: float, steps: int, every: int) -> Measure:
    """What of so many pictures can be measured within MOST_SHARE of the run.

    pass_steps: what a pass takes, in training steps; 0: next to nothing. steps: of the run. every: steps between saves.
    """
    most, times = whole(held_out, trained), math.ceil(steps / every) + 1
    allowed = MOST_SHARE * steps / times / pass_steps if pass_steps else math.inf
    fewer = [replace(most, timesteps=count) for count in range(TIMESTEPS, FEWER_TIMESTEPS - 1, -1)]
    for pictures in range(MOST_PICTURES, 0, -1):
        held, learnt = min(pictures, most.held_out), min(pictures, most.trained)
        fewer.append(Measure(FEWER_TIMESTEPS, held, learnt))
    fewer += [replace(fewer[-1], timesteps=count) for count in range(FEWER_TIMESTEPS - 1, 0, -1)]
    return next((each for each in fewer if each.passes <= allowed), fewer[-1])


def timesteps_at_once(area: int, latents_at_once: int = LATENTS_AT_ONCE) -> int:
    """Timesteps of a picture in a batch, by the area of its latents."""
    return max(1, min(TIMESTEPS, latents_at_once // area))
