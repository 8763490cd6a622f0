"""Lines of any length in a bounded number of points: a plot of 20,000 steps costs no more than one of 400."""

from __future__ import annotations

import math
from dataclasses import dataclass

MOST_POINTS = 400

Point = tuple[int, float]  # step, value


@dataclass
class _Bucket:
    """What is kept of `stride` steps in a row."""

    index: int
    low: Point
    high: Point


class Curve:
    """Values by step, at most `most` points. Steps must not go back.

    With `keeps_ends` every group of steps keeps its lowest and its highest value, so that no outlier is lost; without,
    its last value, which is right for what is smooth already.
    """

    def __init__(self, keeps_ends: bool = False, most: int = MOST_POINTS):
        self.keeps_ends = keeps_ends
        self.limit = most // 2 if keeps_ends else most
        self.stride = 1
        self._buckets: list[_Bucket] = []

    def add(self, step: int, value: float) -> None:
        """Values that are no numbers are passed over: a line cannot show them."""
        if not math.isfinite(value):
            return
        point, index = (step, value), step // self.stride
        if self._buckets and self._buckets[-1].index == index:
            self._join(self._buckets[-1], _Bucket(index, point, point))
            return
        self._buckets.append(_Bucket(index, point, point))
        while len(self._buckets) > self.limit:
            self._halve()

    def points(self) -> list[Point]:
        """What is kept, in the order of the steps."""
        return [point for bucket in self._buckets for point in sorted({bucket.low, bucket.high})]

    @property
    def last(self) -> float | None:
        """The newest value kept."""
        points = self.points()[-1:]
        return points[0][1] if points else None

    def _halve(self) -> None:
        self.stride *= 2
        merged: list[_Bucket] = []
        for bucket in self._buckets:
            bucket.index //= 2
            if merged and merged[-1].index == bucket.index:
                self._join(merged[-1], bucket)
            else:
                merged.append(bucket)
        self._buckets = merged

    def _join(self, bucket: _Bucket, later: _Bucket) -> None:
        if not self.keeps_ends:
            bucket.low = bucket.high = later.high
            return
        bucket.low = min(bucket.low, later.low, key=lambda point: point[1])
        bucket.high = max(bucket.high, later.high, key=lambda point: point[1])


class Smoothing:
    """An exponential mean over about `span` steps, without a pull towards zero at the start."""

    def __init__(self, span: float):
        self.span = span
        self._past = 1 - 1 / span
        self._sum = self._weight = 0.0

    def add(self, value: float) -> float:
        self._sum = self._past * self._sum + (1 - self._past) * value
        self._weight = self._past * self._weight + 1 - self._past
        return self._sum / self._weight


def span_for(total: int) -> float:
    """Steps to smooth over, so that the line of a run of `total` steps is calm and still moves."""
    return min(max(total / 40, 20.0), 500.0)
