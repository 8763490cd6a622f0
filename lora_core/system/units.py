"""Bytes, times and speeds as people read them."""

from __future__ import annotations

import math

from lora_core.messages import Message


def duration(seconds: float) -> str:
    """0:07, 12:30 or 3:05:00; '?' for what is not known."""
    if not math.isfinite(seconds) or seconds < 0:
        return "?"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def rough_duration(seconds: float) -> Message:
    """About how long it takes, in the one unit that suits."""
    if seconds < 90:
        return Message("system.seconds", count=seconds)
    if seconds < 90 * 60:
        return Message("system.minutes", count=seconds / 60)
    return Message("system.hours", count=seconds / 3600)


def disk_size(count: int) -> Message:
    """Bytes in the units disks and lines are sold in."""
    if count >= 1e9:
        return Message("system.gb", count=count / 1e9)
    if count >= 1e6:
        return Message("system.mb", count=count / 1e6)
    return Message("system.kb", count=count / 1e3) if count >= 1e3 else Message("system.bytes", count=count)


def exact_size(count: int) -> Message:
    """Bytes of a large file, so finely that one that is cut short differs from the whole."""
    return Message("system.gb_exact", count=count / 1e9) if count >= 1e8 else Message("system.mb_exact", count=count / 1e6)


def memory_size(count: float) -> Message:
    """Bytes in the units that memory comes in."""
    if count >= 2**30:
        return Message("system.gib", count=count / 2**30)
    return Message("system.mib", count=max(1, round(count / 2**20)))


def step_rate(steps_per_second: float, unknown: str = "? it/s") -> str:
    """Training steps a second, or seconds a step where that is more; `unknown` before the first one."""
    if not steps_per_second > 0:
        return unknown
    return f"{steps_per_second:.1f} it/s" if steps_per_second >= 1 else f"{1 / steps_per_second:.1f} s/it"
