"""lora_core.system.units: bytes, times and speeds as people read them, in both languages."""

from __future__ import annotations

import pytest

from lora_core.messages import say
from lora_core.system.units import disk_size, duration, memory_size, rough_duration, step_rate


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (7.4, "0:07"), (59.6, "1:00"), (750, "12:30"), (11100, "3:05:00"), (360000, "100:00:00"),
     (-1, "?"), (float("nan"), "?"), (float("inf"), "?")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_rough_durations_and_sizes_read_well() -> None:
    assert [str(rough_duration(s)) for s in (5, 89.6, 600, 7200)] == ["5 s", "90 s", "10 min", "2.0 h"]
    sizes = [str(disk_size(n)) for n in (12, 1500, 2_700_000, 3_440_000_000)]
    assert sizes == ["12 bytes", "1.5 kB", "2.7 MB", "3.4 GB"]
    assert [str(memory_size(n)) for n in (1, 3 * 2**20, 2**30, 1.5 * 2**30)] == ["1 MiB", "3 MiB", "1.0 GiB", "1.5 GiB"]
    assert say(disk_size(1500), "pt-BR") == "1,5 kB" and say(rough_duration(7200), "pt-BR") == "2,0 h"


def test_a_rate_below_one_is_told_the_other_way_round() -> None:
    assert [step_rate(rate) for rate in (2.04, 1.0, 0.4)] == ["2.0 it/s", "1.0 it/s", "2.5 s/it"]
    assert step_rate(0.0) == step_rate(float("nan")) == "? it/s" and step_rate(-1.0, unknown="–") == "–"
