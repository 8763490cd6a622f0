"""The soak in small: two open pages beside a training leave no thread and no handle behind, and ask for little."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.soak import Look, Soak, soak


def test_two_pages_beside_a_training_leave_nothing_behind(tmp_path: Path) -> None:
    found = soak(80, tmp_path, save_steps=40, seconds=0.2)
    assert found.failed == "" and found.missed == [] and found.last_step == 80
    assert len(found.looks) > 3
    threads, handles = found.growth("threads"), found.growth("handles")
    assert threads[1] <= threads[0] + 2 and handles[1] <= handles[0] + 4  # a request may be under way
    assert 0 < found.largest_payload < 300_000 and 0 < found.events_bytes < 80 * 1000


def test_growth_of_a_training_too_short_to_be_looked_at_often() -> None:
    looks = [Look(step, 0.0, 0, threads, 0) for step, threads in ((1, 7), (32, 8), (79, 9))]
    assert Soak(80, looks).growth("threads") == (8.0, 9.0)
    assert Soak(80).growth("threads") == (0.0, 0.0)
