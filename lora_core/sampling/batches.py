"""How many pictures are drawn side by side. Needs no torch, for the estimates count with it."""

from __future__ import annotations

MOST_AT_ONCE = 16
PIXELS_AT_ONCE = 512 * 512  # several small pictures share a batch; large ones are drawn one by one


def drawn_at_once(width: int, height: int) -> int:
    """Pictures of this size, in pixels, in a batch."""
    return max(1, min(MOST_AT_ONCE, PIXELS_AT_ONCE // (width * height)))
