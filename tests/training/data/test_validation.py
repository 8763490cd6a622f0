"""lora_core.training.data.validation: how much is measured, within its share of a run."""

from __future__ import annotations

import pytest

from lora_core.training.data.validation import LATENTS_AT_ONCE, MOST_SHARE, Measure, measure, timesteps_at_once, whole


def test_what_takes_next_to_nothing_is_measured_whole() -> None:
    assert whole(2, 20) == Measure(8, 2, 4) and whole(0, 3) == Measure(8, 0, 3) and whole(30, 99) == Measure(8, 16, 16)
    assert measure(2, 20, 0.0, 300, 100) == whole(2, 20)


@pytest.mark.parametrize("held_out", [0, 2, 16])
@pytest.mark.parametrize("of_pass", [0.1, 0.36])
@pytest.mark.parametrize(("steps", "every"), [(300, 50), (1500, 500), (1500, 250), (3000, 100), (10_000, 2500)])
def test_a_run_gives_no_more_than_its_share_to_validation(held_out: int, of_pass: float, steps: int, every: int) -> None:
    found = measure(held_out, 40, of_pass, steps, every)
    taken = found.passes * of_pass * (steps / every + 1)
    assert taken <= MOST_SHARE * steps
    most = whole(held_out, 40)
    assert 1 <= found.timesteps <= most.timesteps and found.trained >= 1 and bool(found.held_out) == bool(held_out)
    fewer = Measure(found.timesteps - 1, found.held_out, found.trained)
    if found.timesteps < 4:
        assert (found.held_out, found.trained) == (min(1, held_out), 1) and fewer.passes < found.passes


def test_timesteps_are_left_out_before_pictures_and_a_run_of_few_steps_still_measures_something() -> None:
    times, some = 4, whole(2, 20)
    enough = some.passes * times / MOST_SHARE / 1500
    assert measure(2, 20, 1 / enough, 1500, 500) == some
    assert measure(2, 20, 1 / (enough * 0.6), 1500, 500) == Measure(4, 2, 4)
    assert measure(2, 20, 1 / (enough * 0.4), 1500, 500) == Measure(4, 2, 2)
    assert measure(2, 20, 1.0, 2, 1) == Measure(1, 1, 1)


def test_how_many_timesteps_go_into_a_batch() -> None:
    assert [timesteps_at_once(side * side) for side in (8, 32, 64, 128)] == [8, 8, 2, 1]
    assert [timesteps_at_once(side * side, 4 * LATENTS_AT_ONCE) for side in (64, 128)] == [8, 2]
