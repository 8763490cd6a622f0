"""What a validation measures: how many pictures, at how many timesteps. Needs no torch, for the estimates count with it."""

from __future__ import annotations

TIMESTEPS = 8  # evenly over the schedule, per picture
MOST_PICTURES = 16
LATENTS_AT_ONCE = 2 * 64 * 64  # two timesteps of a picture of 512 pixels: no more memory than the leanest step takes


def timesteps_at_once(area: int) -> int:
    """Timesteps of a picture in a batch, by the area of its latents."""
    return max(1, min(TIMESTEPS, LATENTS_AT_ONCE // area))


def pictures_measured(held_out: int, trained: int) -> tuple[int, int]:
    """How many of the held-out and of the training pictures are measured."""
    return min(MOST_PICTURES, held_out), min(MOST_PICTURES, max(held_out, 4), trained)
