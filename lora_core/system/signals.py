"""Ctrl-C and its kin: asked for once, the work ends in good order; asked for twice, at once."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator

ONE_PRESS_S = 0.5  # a console and a launcher may both pass on one Ctrl-C


@contextlib.contextmanager
def stop_signals(once: bool = False) -> Iterator[list[float]]:
    """Collect the times of Ctrl-C and its kin instead of raising KeyboardInterrupt at any line.

    once: no second one counts, for a launcher repeats them, and ends its processes after half a minute anyway.
    """
    asked: list[float] = []

    def note(number: int, frame: object) -> None:
        if not asked or (not once and time.monotonic() - asked[-1] > ONE_PRESS_S):
            asked.append(time.monotonic())

    names = [name for name in ("SIGINT", "SIGTERM", "SIGBREAK", "SIGHUP") if hasattr(signal, name)]
    numbers = [getattr(signal, name) for name in names]
    # nohup has SIGHUP ignored, and means it.
    old = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}
    for number in old:
        signal.signal(number, note)
    try:
        yield asked
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
