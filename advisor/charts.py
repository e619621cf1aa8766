"""Inline SVG for the report: pure functions from numbers to markup.

Every track is one row of a chart. Positions are percentages, so a track is as large
as its cell and neither text nor dots are stretched; colours are the stylesheet's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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


def axis(scale: Scale, factor: float = 100.0, unit: str = "", signed: bool = False) -> Markup:
    """The scale's ticks as text, for the foot of a chart. `factor` 100 writes shares as points."""
    texts = []
    for tick in scale.ticks:
        number = round(factor * tick, 6)
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
