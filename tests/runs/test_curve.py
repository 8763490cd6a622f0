from __future__ import annotations

import math

import pytest

from lora_core.runs.curve import MOST_POINTS, Curve, Smoothing, span_for


@pytest.mark.parametrize("keeps_ends", [False, True])
def test_a_curve_stays_bounded_and_spans_the_whole_run(keeps_ends: bool) -> None:
    curve = Curve(keeps_ends)
    for step in range(1, 20_001):
        curve.add(step, math.sin(step / 500))
        assert step % 997 or len(curve.points()) <= MOST_POINTS
    points = curve.points()
    assert MOST_POINTS / 4 < len(points) <= MOST_POINTS
    assert points == sorted(points) and points[0][0] < 200 and points[-1][0] > 19_800


def test_thinning_loses_no_outlier() -> None:
    curve = Curve(keeps_ends=True)
    for step in range(20_000):
        curve.add(step, {777: 9.0, 15_001: -9.0}.get(step, 0.5))
    assert (777, 9.0) in curve.points() and (15_001, -9.0) in curve.points()


def test_a_short_curve_keeps_every_point_and_passes_over_what_is_no_number() -> None:
    curve = Curve(keeps_ends=True)
    for step, value in enumerate([0.3, math.nan, 0.1, math.inf, 0.2]):
        curve.add(step, value)
    assert curve.points() == [(0, 0.3), (2, 0.1), (4, 0.2)] and curve.last == 0.2
    assert Curve().last is None


def test_smoothing_starts_at_the_first_value_and_follows() -> None:
    smoothing = Smoothing(20)
    assert smoothing.add(0.5) == pytest.approx(0.5)
    values = [smoothing.add(0.1) for _ in range(200)]
    assert values == sorted(values, reverse=True) and values[-1] == pytest.approx(0.1, abs=1e-3)


def test_longer_runs_are_smoothed_over_more_steps() -> None:
    assert [span_for(total) for total in (10, 1500, 100_000)] == [20, 37.5, 500]
