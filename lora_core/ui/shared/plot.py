"""Lines over training steps as SVG, drawn on the server: no library in the page, and it can be tested as text.

Colours come from CSS (`assets/train.css`, classes `plot-<style>`), each with its own dash, so that neither colour-blind
eyes nor a print in grey lose a line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from lora_core.runs.curve import MOST_POINTS, Point

MOST_MARKS = 60
MOST_DOTS = 40  # lines of fewer points show each of them
LEFT, RIGHT, TOP, BOTTOM = 70, 14, 14, 40  # margins in pixels; left of it stand the label and six digits


@dataclass(frozen=True)
class Series:
    """A line. `style`: smoothed, raw, held or known, its role in the loss plot; or 1 to 8 where runs are compared."""

    name: str
    points: Sequence[Point]
    style: str = "1"


@dataclass(frozen=True)
class Mark:
    """A step worth showing, such as a checkpoint; `label` is its tooltip, and is written out where it is the best."""

    step: int
    label: str
    best: bool = False


@dataclass(frozen=True)
class Frame:
    """What is around the lines. `width` and `height` in pixels; `last_step` 0: as far as the lines go."""

    title: str
    description: str
    x_label: str
    y_label: str
    width: int = 760
    height: int = 320
    log: bool = False
    last_step: int = 0
    decimal: str = "."


@dataclass(frozen=True)
class _Scale:
    """From steps and values to pixels."""

    frame: Frame
    last: int
    low: float
    high: float

    def x(self, step: float) -> float:
        return LEFT + step / self.last * (self.frame.width - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self._shown(self.low), self._shown(self.high)
        share = (self._shown(value) - low) / (high - low)
        return self.frame.height - BOTTOM - share * (self.frame.height - TOP - BOTTOM)

    def _shown(self, value: float) -> float:
        return math.log10(max(value, 1e-12)) if self.frame.log else value


def loss_plot(series: Sequence[Series], frame: Frame, marks: Sequence[Mark] = ()) -> str:
    """A figure of lines with axes, marks and a legend; lines of more than MOST_POINTS points are for Curve to thin."""
    assert all(len(each.points) <= MOST_POINTS for each in series), "thin the line first"
    scale = _scale(series, frame)
    heard = "".join(f"<{tag}>{escape(text)}</{tag}>" for tag, text in (("title", frame.title), ("desc", frame.description)))
    area = f'x="{LEFT}" y="{TOP}" width="{frame.width - LEFT - RIGHT}" height="{frame.height - TOP - BOTTOM}"'
    data = f'data-last="{scale.last}" data-low="{scale.low:.6g}" data-high="{scale.high:.6g}"'
    return (
        f'<figure class="plot"><svg role="img" viewBox="0 0 {frame.width} {frame.height}" {data} '
        f'data-log="{int(frame.log)}" data-area="{LEFT} {TOP} {RIGHT} {BOTTOM}">{heard}'
        f"{_axes(scale)}{_marks(scale, marks)}"
        # Outliers of the raw loss run out of the picture instead of pressing everything else flat.
        f'<svg {area} viewBox="{LEFT} {TOP} {frame.width - LEFT - RIGHT} {frame.height - TOP - BOTTOM}">'
        f"{''.join(_line(scale, each) for each in series)}</svg>"
        f"</svg>{_legend(series)}</figure>"
    )


def number(value: float) -> str:
    """A number for an axis or a label: four significant digits, and no more zeros than needed."""
    return f"{value:.4g}"


def _written(frame: Frame, value: float) -> str:
    return number(value).replace(".", frame.decimal)


def _scale(series: Sequence[Series], frame: Frame) -> _Scale:
    last = max([frame.last_step, 1, *(point[0] for each in series for point in each.points[-1:])])
    calm = [value for each in series if each.style != "raw" for _, value in each.points]
    noisy = sorted(value for each in series if each.style == "raw" for _, value in each.points)
    edge = len(noisy) // 20  # the outer twentieths of the raw loss do not set the scale
    values = [v for v in (*calm, *noisy[edge : len(noisy) - edge]) if math.isfinite(v) and (v > 0 or not frame.log)]
    low, high = (min(values), max(values)) if values else (0.01, 1.0)
    if frame.log:
        return _Scale(frame, last, low / 1.15, high * 1.15)
    margin = (high - low or abs(high) or 1.0) * 0.08
    return _Scale(frame, last, max(0.0, low - margin) if low >= 0 else low - margin, high + margin)


def _line(scale: _Scale, series: Series) -> str:
    shown = [p for p in series.points if math.isfinite(p[1]) and (p[1] > 0 or not scale.frame.log)]
    if not shown:
        return ""
    places = [(round(scale.x(step), 1), round(scale.y(value), 1)) for step, value in shown]
    path = "M" + "L".join(f"{x:g},{y:g}" for x, y in places)
    dots = ""
    if series.style != "raw" and len(places) <= MOST_DOTS:
        dots = "".join(f'<circle cx="{x:g}" cy="{y:g}" r="2.6"/>' for x, y in places)
    return (
        f'<g class="plot-line plot-{series.style}" data-name="{escape(series.name)}" data-points="{len(places)}">'
        f'<path d="{path}"/>{dots}</g>'
    )


def _axes(scale: _Scale) -> str:
    frame = scale.frame
    bottom, right = frame.height - BOTTOM, frame.width - RIGHT
    parts = []
    for value in _log_ticks(scale.low, scale.high) if frame.log else ticks(scale.low, scale.high, 6):
        y = round(scale.y(value), 1)
        parts.append(f'<line class="plot-grid" x1="{LEFT}" x2="{right}" y1="{y:g}" y2="{y:g}"/>')
        parts.append(
            f'<text class="plot-tick" x="{LEFT - 8}" y="{y + 4:g}" text-anchor="end">{_written(frame, value)}</text>'
        )
    for step in ticks(0, scale.last, 8):
        x = round(scale.x(step), 1)
        anchor = "end" if x > right - 12 else "middle"
        parts.append(f'<text class="plot-tick" x="{x:g}" y="{bottom + 17}" text-anchor="{anchor}">{round(step):d}</text>')
    parts.append(f'<path class="plot-axis" d="M{LEFT},{TOP}V{bottom}H{right}"/>')
    middle = (LEFT + right) / 2
    parts.append(
        f'<text class="plot-label" x="{middle:g}" y="{frame.height - 6}" text-anchor="middle">'
        f"{escape(frame.x_label)}</text>"
    )
    height = (TOP + bottom) / 2
    parts.append(
        f'<text class="plot-label" x="14" y="{height:g}" transform="rotate(-90 14 {height:g})" '
        f'text-anchor="middle">{escape(frame.y_label)}</text>'
    )
    return "".join(parts)


def _marks(scale: _Scale, marks: Sequence[Mark]) -> str:
    stride = -(-len(marks) // MOST_MARKS) or 1
    shown = [mark for index, mark in enumerate(reversed(marks)) if mark.best or index % stride == 0]
    bottom, parts = scale.frame.height - BOTTOM, []
    for mark in reversed(shown):
        x = round(scale.x(mark.step), 1)
        kind = "plot-mark plot-best" if mark.best else "plot-mark"
        parts.append(
            f'<g class="{kind}"><title>{escape(mark.label)}</title><line x1="{x:g}" x2="{x:g}" y1="{TOP}" y2="{bottom}"/>'
            f'<path d="M{x:g},{bottom - 1}l-4,7h8z"/>'
        )
        if mark.best:
            is_late = x > scale.frame.width * 0.6
            anchor, shift = ("end", -6) if is_late else ("start", 6)
            parts.append(f'<text x="{x + shift:g}" y="{TOP + 10}" text-anchor="{anchor}">{escape(mark.label)}</text>')
        parts.append("</g>")
    return "".join(parts)


def _legend(series: Sequence[Series]) -> str:
    entries = "".join(
        f'<li class="plot-line plot-{each.style}"><svg viewBox="0 0 30 10" aria-hidden="true"><path d="M1,5H29"/></svg>'
        f"{escape(each.name)}</li>"
        for each in series
        if each.points
    )
    return f'<ul class="plot-legend">{entries}</ul>' if entries else ""


def ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` round numbers from `low` to `high`."""
    raw = (high - low) / most
    size = 10.0 ** math.floor(math.log10(raw))
    step = next((size * factor for factor in (1, 2, 2.5, 5) if size * factor >= raw), size * 10)
    if low == 0 and high >= 1 and step < 1:
        step = 1.0  # steps of a training are whole
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each power of ten between; round numbers where that gives fewer than two."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    within = [value for value in found if low <= value <= high]
    return within if len(within) > 1 else ticks(low, high, 5)
