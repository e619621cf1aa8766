"""Inline SVG for the report: pure functions from numbers to markup.

A track is one row of a chart, a curve is a chart of its own. Positions are percentages, so
each is as large as its cell and neither text nor dots are stretched; colours are the stylesheet's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

from markupsafe import Markup

Kind = Literal["knowledge", "behaviour", "plain", "chosen"]

_SHAPES: dict[Kind, Markup] = {
    "knowledge": Markup('<circle r="5"/>'),
    "behaviour": Markup('<rect x="-4.5" y="-4.5" width="9" height="9"/>'),
    "chosen": Markup('<circle r="5"/>'),
    "plain": Markup('<path d="M0-6 6 0 0 6-6 0z"/>'),
}
"""Shape as well as colour tells the kinds apart, for readers who do not see colours and for print."""

_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1.0)


class Line(NamedTuple):
    """A value marked across a track, e.g. the target."""

    at: float
    css: str


@dataclass(frozen=True, slots=True)
class Scale:
    low: float
    high: float
    step: float

    @property
    def ticks(self) -> list[float]:
        count = round((self.high - self.low) / self.step)
        return [self.low + i * self.step for i in range(count + 1)]

    def x(self, value: float) -> str:
        """Position of `value` in percent of the track's width; values outside stand at its end."""
        share = (value - self.low) / (self.high - self.low)
        return f"{100 * min(1.0, max(0.0, share)):.2f}%"


def scale_over(values: Iterable[float], most_ticks: int = 6) -> Scale:
    """A scale with round ticks that holds 0 and all finite `values`."""
    finite = [0.0, *(v for v in values if math.isfinite(v))]
    low, high = min(finite), max(finite)
    for step in _STEPS:
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first < most_ticks:
            return Scale(first * step, max(last, first + 1) * step, step)
    whole = float(math.ceil(max(-low, high, 1.0)))
    return Scale(-whole if low < 0 else 0.0, whole, whole)


def interval_track(
    value: float,
    low: float | None,
    high: float | None,
    scale: Scale,
    *,
    says: str,
    kind: Kind = "plain",
    bar: bool = False,
    lines: Sequence[Line] = (),
) -> Markup:
    """One row: grid, marked lines, the interval as a whisker and the value as a shape; `bar` fills from 0 to the value.

    `says` is the row for a screen reader.
    """
    parts = [_grid(scale)]
    if bar:
        parts.append(_bar(value, scale))
    parts += [_vertical(scale.x(line.at), f"mark {line.css}") for line in lines]
    if low is not None and high is not None:
        whisker = Markup('<line class="span" x1="{}" x2="{}" y1="50%" y2="50%"/>')
        end = Markup('<svg class="span" x="{}" y="50%" overflow="visible"><path d="M0-5V5"/></svg>')
        parts += [whisker.format(scale.x(low), scale.x(high)), end.format(scale.x(low)), end.format(scale.x(high))]
    dot = Markup('<svg class="dot" x="{}" y="50%" overflow="visible">{}</svg>')
    parts.append(dot.format(scale.x(value), _SHAPES[kind]))
    return _track(parts, kind, says)


def bar_track(value: float, scale: Scale, *, says: str) -> Markup:
    """One row with a plain bar from 0 to a count."""
    return _track([_grid(scale), _bar(value, scale)], "plain solid", says)


def axis(scale: Scale, unit: str = "", signed: bool = False) -> Markup:
    """The scale's ticks as text, for the foot of a chart. Shares are written as points."""
    texts = []
    for tick in scale.ticks:
        number = round(100 * tick, 6)
        sign = "+" if signed and number > 0 else "−" if number < 0 else ""
        texts.append(
            Markup('<text x="{}" y="14" text-anchor="middle">{}{:g}{}</text>').format(
                scale.x(tick), sign, abs(number), unit
            )
        )
    return Markup('<svg class="axis" width="100%" height="18" aria-hidden="true">{}</svg>').format(
        Markup("").join(texts)
    )


def _grid(scale: Scale) -> Markup:
    return Markup("").join(_vertical(scale.x(tick), "zero" if abs(tick) < 1e-9 else "grid") for tick in scale.ticks)


def _vertical(x: str, css: str) -> Markup:
    return Markup('<line class="{0}" x1="{1}" x2="{1}" y1="0" y2="100%"/>').format(css, x)


def _bar(value: float, scale: Scale) -> Markup:
    # A thick line: unlike a rect it can be centred on a percentage.
    return Markup('<line class="bar" x1="{}" x2="{}" y1="50%" y2="50%"/>').format(scale.x(0.0), scale.x(value))


def _track(parts: Sequence[Markup], css: str, says: str) -> Markup:
    return Markup('<svg class="track {}" width="100%" height="34" role="img" aria-label="{}">{}</svg>').format(
        css, says, Markup("").join(parts)
    )


class CurvePoint(NamedTuple):
    rows: int
    rate: float
    low: float | None
    high: float | None


def curve(points: Sequence[CurvePoint], base: float | None, ahead: CurvePoint | None, *, says: str) -> Markup:
    """A learning curve: rate over training rows (each doubling as far as the last), with intervals.

    Points of one size are seeds and stand side by side; the line goes through their means, and on, dashed, to `ahead`,
    which nobody has measured. `base` is marked across. `points` is not empty.
    """
    known = [*points, *([ahead] if ahead is not None else [])]
    sizes = sorted({point.rows for point in known})
    tops = [p.rate if p.high is None else p.high for p in known] + [base or 0.0]
    scale = scale_over([min(1.0, max(tops))], 5)
    first, last = math.log2(sizes[0]), math.log2(sizes[-1])

    def x(rows: int) -> str:
        return f"{50.0 if last == first else 4 + 92 * (math.log2(rows) - first) / (last - first):.2f}%"

    def y(rate: float) -> str:
        return f"{100 * (1 - min(1.0, max(0.0, rate / scale.high))):.2f}%"

    parts = []
    for tick in scale.ticks:
        line = Markup('<line class="{}" x1="0" x2="100%" y1="{y}" y2="{y}"/>')
        parts.append(line.format("zero" if tick == 0 else "grid", y=y(tick)))
        label = Markup('<text x="-8" y="{}" dy="4" text-anchor="end">{:g}%</text>')
        parts.append(label.format(y(tick), round(100 * tick, 6)))
    if base is not None:
        parts.append(Markup('<line class="mark base" x1="0" x2="100%" y1="{0}" y2="{0}"/>').format(y(base)))
    label = Markup('<text x="{}" y="100%" dy="18" text-anchor="middle">{:,}</text>')
    parts += [label.format(x(size), size) for size in sizes]
    means = {
        size: sum(same) / len(same)
        for size in sizes
        if (same := [point.rate for point in points if point.rows == size])
    }
    path = [(size, rate, "path") for size, rate in sorted(means.items())]
    if ahead is not None:
        path.append((ahead.rows, ahead.rate, "path ahead"))
    for (a, left, _), (b, right, css) in pairwise(path):
        step = Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>')
        parts.append(step.format(css, x(a), y(left), x(b), y(right)))
    for size in sizes:
        seeds = [point for point in points if point.rows == size]
        for place, point in enumerate(seeds):
            parts.append(_curve_point(point, x(size), y, 12 * (place - (len(seeds) - 1) / 2), ahead=False))
    if ahead is not None:
        parts.append(_curve_point(ahead, x(ahead.rows), y, 0.0, ahead=True))
    return Markup('<svg class="curve {}" width="100%" height="190" role="img" aria-label="{}">{}</svg>').format(
        "behaviour", says, Markup("").join(parts)
    )


def _curve_point(point: CurvePoint, x: str, y: Callable[[float], str], shift: float, ahead: bool) -> Markup:
    parts = []
    if point.low is not None and point.high is not None:
        whisker = Markup('<line class="span" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>')
        parts.append(whisker.format(x, y(point.low), y(point.high)))
    shape = Markup('<svg class="{}" x="{}" y="{}" overflow="visible">{}</svg>')
    parts.append(shape.format("dot ahead" if ahead else "dot", x, y(point.rate), _SHAPES["behaviour"]))
    return Markup('<g transform="translate({:g} 0)">{}</g>').format(shift, Markup("").join(parts))
