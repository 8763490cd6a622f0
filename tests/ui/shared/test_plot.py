from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from lora_core.runs.curve import MOST_POINTS
from lora_core.ui.shared.plot import MOST_MARKS, Frame, Mark, Series, loss_plot, ticks

FRAME = Frame("Loss & more", "Falls from 0.5 to 0.1.", "Step", "Loss")


def drawn(series: list[Series], frame: Frame = FRAME, marks: list[Mark] | None = None) -> ElementTree.Element:
    return ElementTree.fromstring(loss_plot(series, frame, marks or []))


def test_a_plot_is_well_formed_and_speaks_to_screen_readers() -> None:
    figure = drawn([Series("<b>held</b>", [(0, 0.5), (100, 0.1)], "held")], marks=[Mark(100, "best: step 100", True)])
    svg = figure.find("svg")
    assert svg is not None and svg.get("role") == "img"
    assert svg.findtext("title") == "Loss & more" and svg.findtext("desc") == "Falls from 0.5 to 0.1."
    (line,) = svg.findall(".//g[@data-name]")
    assert line.get("data-name") == "<b>held</b>" and line.get("data-points") == "2"
    assert ["".join(entry.itertext()) for entry in figure.findall("ul/li")] == ["<b>held</b>"]
    assert "best: step 100" in "".join(svg.itertext())


def test_lines_lie_where_their_values_are() -> None:
    frame = Frame("t", "d", "x", "y", width=784, height=354, last_step=200)
    (path,) = drawn([Series("a", [(0, 1.0), (100, 3.0)])], frame).findall(".//g[@data-name]/path")
    first, second = (tuple(map(float, point.split(","))) for point in (path.get("d") or "")[1:].split("L"))
    assert first[0] == 70 and second[0] == 70 + 350  # half of 200 steps, half of the way
    assert second[1] < first[1]


def test_on_a_log_scale_equal_factors_are_equal_ways_and_zeros_are_left_out() -> None:
    frame = Frame("t", "d", "x", "y", log=True)
    (path,) = drawn([Series("a", [(0, 0.0), (1, 0.01), (2, 0.1), (3, 1.0)])], frame).findall(".//g[@data-name]/path")
    heights = [float(point.split(",")[1]) for point in (path.get("d") or "")[1:].split("L")]
    assert len(heights) == 3
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.3)


def test_an_outlier_of_the_raw_loss_does_not_press_the_rest_flat() -> None:
    raw = [(step, 100.0 if step == 50 else 0.1 + 0.01 * (step % 7)) for step in range(100)]
    svg = drawn([Series("raw", raw, "raw"), Series("smooth", [(0, 0.15), (99, 0.1)], "smoothed")]).find("svg")
    assert svg is not None and float(svg.get("data-high", "")) < 0.3


def test_no_plot_is_larger_than_its_bounds() -> None:
    full = [(step * 50, 0.1 + step % 9 / 100) for step in range(MOST_POINTS)]
    marks = [Mark(step, f"step {step}", best=step == 3) for step in range(1000)]
    text = loss_plot([Series(name, full, name) for name in ("smoothed", "raw", "held", "known")], FRAME, marks)
    assert text.count('class="plot-mark') <= MOST_MARKS + 1 and "step 3<" in text and "step 999<" in text
    assert len(text) < 60_000
    with pytest.raises(AssertionError):
        loss_plot([Series("long", [*full, (99_999, 0.1)])], FRAME)


@pytest.mark.parametrize("points", [[], [(0, 0.5)], [(5, 0.2), (6, 0.2)], [(1, math.nan)], [(0, 0.0)], [(0, -1.0)]])
@pytest.mark.parametrize("log", [False, True])
def test_few_equal_or_odd_points_still_draw(points: list[tuple[int, float]], log: bool) -> None:
    text = loss_plot([Series("a", points)], Frame("t", "d", "x", "y", log=log))
    ElementTree.fromstring(text)
    assert not re.search(r"\b(nan|inf)\b", text)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 400, [0, 50, 100, 150, 200, 250, 300, 350, 400]), (0, 3, [0, 1, 2, 3]), (0.1, 0.12, [0.1, 0.1025, 0.105])],
)
def test_ticks_are_round_numbers(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high, 8)[: len(expected)] == expected
