"""A training's run folder as one page: what came out, and loss and dev score by step as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from markupsafe import Markup, escape

from core.files import read_own_jsonl, write_text

if TYPE_CHECKING:
    from tuning.train import TrainReport

WIDTH, HEIGHT, PAD = 640, 200, 44
SMOOTH = 0.9
"""Of the loss's moving average, which is what one looks at; single steps are shown pale behind it."""

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --pale: #9aa4af; --line: #1f6feb; --paper: #fff }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --pale: #5d6772; --line: #6cb2ff; --paper: #14181d } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: var(--ink);
  background: var(--paper) }
svg { width: 100%; height: auto } svg text { font-size: 12px; fill: var(--ink) }
.axis { stroke: var(--pale) } .raw { stroke: var(--pale); fill: none } .main { stroke: var(--line); fill: none;
  stroke-width: 2 } .best { fill: var(--line) }
table { border-collapse: collapse } td, th { text-align: left; padding: .15rem .8rem .15rem 0; vertical-align: top }
"""


class Series(NamedTuple):
    points: Sequence[tuple[float, float]]
    """(step, value) with rising steps."""
    css: str


def write_run_page(run: Path, name: str, report: TrainReport, metrics: Path) -> None:
    """Write report.html into `run`; a training without metrics (a head) has a page without plots."""
    write_text(run / "report.html", str(run_page(name, report, read_own_jsonl(metrics))))


def run_page(name: str, report: TrainReport, metrics: Sequence[dict[str, Any]]) -> Markup:
    """The page. Pure."""
    plots = [Markup("<h2>{}</h2>{}").format(title, plot(series)) for title, series in _plots(metrics)]
    scores = {key: value for key, value in report.scores.items() if value is not None}
    rows = Markup("").join(
        Markup("<tr><th>{}<td>{}").format(_words(key), _shown(value)) for key, value in scores.items()
    )
    warnings = Markup("").join(Markup("<li>{}").format(text) for text in report.warnings)
    return Markup(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        "<title>Tuning of {name}</title><style>{style}</style><h1>Tuning of {name}</h1>"
        "<p>{method} on {base}, {rows} rows and {dev} held out, {seconds:.0f} s.{warn}{plots}<h2>Scores</h2>"
        "<table>{scores}</table></html>\n"
    ).format(
        name=name,
        style=Markup(_STYLE),
        method={"lora": "LoRA adapter", "full": "All weights", "head": "Head"}[report.method],
        base=report.base_model,
        rows=report.rows,
        dev=report.dev_rows,
        seconds=report.train_s,
        warn=Markup("<ul>{}</ul>").format(warnings) if report.warnings else "",
        plots=Markup("").join(plots),
        scores=rows,
    )


def _plots(metrics: Sequence[dict[str, Any]]) -> list[tuple[str, list[Series]]]:
    losses = [(m["step"], m["loss"]) for m in metrics if "loss" in m]
    if len(losses) < 2:
        return []
    plots = [
        (
            "Training loss (nats a supervised token; grey: each step)",
            [Series(losses, "raw"), Series(smoothed(losses), "main")],
        )
    ]
    dev = [m for m in metrics if "dev_loss" in m]
    if dev:
        plots.append(("Loss on the dev rows", [Series([(m["step"], m["dev_loss"]) for m in dev], "main")]))
        plots.append(
            ("Dev rows answered word for word (share)", [Series([(m["step"], m["dev_score"]) for m in dev], "main")])
        )
    speed = [(m["step"], m["tokens_per_s"]) for m in metrics if "tokens_per_s" in m]
    plots.append(("Tokens a second", [Series(speed, "raw"), Series(smoothed(speed), "main")]))
    return plots


def smoothed(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Exponential moving average, started without bias to the first value."""
    mean = weight = 0.0
    found = []
    for step, value in points:
        mean, weight = SMOOTH * mean + (1 - SMOOTH) * value, SMOOTH * weight + (1 - SMOOTH)
        found.append((step, mean / weight))
    return found


def plot(series: Sequence[Series]) -> Markup:
    """Lines over a common scale from 0; values that are no numbers are left out."""
    kept = [Series([(x, y) for x, y in s.points if math.isfinite(y)], s.css) for s in series]
    xs, ys = ([p[i] for s in kept for p in s.points] for i in (0, 1))
    left, right, top = min(xs, default=0.0), max(xs, default=1.0), max(ys, default=1.0) or 1.0

    def at(x: float, y: float) -> str:
        across = (x - left) / (right - left) if right > left else 0.5
        return f"{PAD + across * (WIDTH - PAD - 8):.1f},{8 + (1 - y / top) * (HEIGHT - 32):.1f}"

    lines = Markup("").join(
        Markup('<polyline class="{}" points="{}"/>').format(s.css, " ".join(at(x, y) for x, y in s.points))
        for s in kept
    )
    ticks = Markup("").join(
        Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(
            PAD - 6, float(at(left, y).split(",")[1]) + 4, f"{y:.3g}"
        )
        for y in (0.0, top / 2, top)
    )
    return Markup(
        '<svg viewBox="0 0 {w} {h}" role="img"><path class="axis" fill="none" d="M{p} 8V{b}H{w}"/>{ticks}{lines}'
        '<text x="{p}" y="{t}">step {first:.0f}</text><text x="{w}" y="{t}" text-anchor="end">{last:.0f}</text></svg>'
    ).format(w=WIDTH, h=HEIGHT, p=PAD, b=HEIGHT - 24, t=HEIGHT - 6, ticks=ticks, lines=lines, first=left, last=right)


def _words(key: str) -> str:
    return key.replace("_", " ")


def _shown(value: Any) -> Markup:
    if isinstance(value, dict) and {"value", "low", "high", "n"} <= value.keys():
        return escape(f"{value['value']:.3g} ({value['low']:.3g} to {value['high']:.3g}, n = {value['n']})")
    if isinstance(value, dict):
        return Markup("<br>").join(Markup("{}: {}").format(_words(k), _shown(v)) for k, v in value.items())
    if isinstance(value, list):
        return Markup("<br>").join(_shown(item) for item in value)
    return escape(f"{value:.4g}" if isinstance(value, float) else str(value))
