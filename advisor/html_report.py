"""The advisor's report as one HTML file that loads nothing: style, script and charts are inside.

Model answers and user data are untrusted text. Jinja escapes every value, and the
page's own content security policy allows no request and no script but ours, by its hash.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, FileSystemLoader
from markupsafe import Markup

from advisor.charts import CurvePoint, Kind, Line, Scale, axis, bar_track, curve, interval_track, scale_over
from advisor.report_view import (
    ANSWER_CHARS,
    FILTERS,
    INPUT_CHARS,
    Document,
    alarms,
    arm_rows,
    base_row,
    failed_items,
    has_gold,
    interval,
    number,
    quantities,
    route_row,
    title,
)

MAX_ITEMS = 200
"""Failed items shown; outcomes.jsonl has them all."""
MAX_ITEM_BYTES = 600_000
"""So that the file stays under 1 MB whatever the answers' length."""
PROMPT_CHARS = 6000

TEMPLATES = Path(__file__).parent / "templates"
_UNIT = Scale(0.0, 1.0, 0.25)
_READY_SHARE = 0.7
"""As in advisor.verdict; from here our retriever counts as ready."""


def render_html(document: Mapping[str, Any]) -> str:
    """The report of `document` (report.json) as a page. A part that the document lacks is left out."""
    verdict = document.get("verdict") or {}
    rows = arm_rows(document)
    base, remedy = base_row(rows), route_row(rows, verdict)
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    page = (
        environment()
        .get_template("report.html.j2")
        .render(
            doc=document,
            verdict=verdict,
            title=title(verdict),
            alarms=alarms(document),
            arms=rows,
            base=base,
            remedy=remedy,
            target=number((document.get("settings") or {}).get("target")),
            quantities=_quantity_chart(verdict, rows),
            arm_chart=_arm_chart(rows, base, remedy, document),
            comparisons=_comparison_chart(verdict),
            realised=_realised(verdict),
            curves=_curves(document),
            causes=_causes(document),
            items=failed_items(document, MAX_ITEMS, MAX_ITEM_BYTES),
            answer_chars=ANSWER_CHARS,
            input_chars=INPUT_CHARS,
            prompt_chars=PROMPT_CHARS,
            script=Markup(script),
            script_hash=b64encode(sha256(script.encode()).digest()).decode(),
        )
    )
    # A lone surrogate in an answer cannot be written as UTF-8.
    return page.encode("utf-8", "replace").decode("utf-8")


@cache
def environment() -> Environment:
    """Templates with escaping on; a name that is missing anywhere along a path is empty, not an error."""
    env = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(FILTERS)
    env.globals.update(interval=interval, percent=FILTERS["percent"], points=FILTERS["points"])
    env.globals.update(score=FILTERS["score"], gb=FILTERS["gb"])
    return env


def _quantity_chart(verdict: Document, arms: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Rows of K, L, D, B, F, X and H as far as known, on one scale, and its axis."""
    known = quantities(verdict, arms)
    if not known:
        return None
    delta = number(verdict.get("delta"))
    scale = scale_over([value for _, e in known for value in (e["value"], *_ends(e)) if value is not None])
    rows = []
    for quantity, e in known:
        points = FILTERS["points"] if quantity.difference else FILTERS["percent"]
        lines = [Line(delta, "delta")] if quantity.gain and delta is not None else []
        says = f"{quantity.name}: {points(e['value'])}, 95 % interval {interval(*_ends(e), points)}"
        track = interval_track(e["value"], *_ends(e), scale, says=says, kind=quantity.kind, bar=True, lines=lines)
        rows.append({"about": quantity, "estimate": e, "track": track, "write": points})
    return {
        "rows": rows,
        "axis": axis(scale, signed=True),
        "by": {q.letter: e for q, e in known},
        "gold": has_gold(arms),
    }


def _arm_chart(
    rows: Sequence[Mapping[str, Any]],
    base: Mapping[str, Any] | None,
    remedy: Mapping[str, Any] | None,
    document: Document,
) -> dict[str, Any] | None:
    scored = [row for row in rows if number(row.get("rate")) is not None]
    if not scored:
        return None
    target = number((document.get("settings") or {}).get("target"))
    lines = [Line(target, "target")] if target is not None else []
    if base is not None and number(base.get("rate")) is not None:
        lines.append(Line(base["rate"], "base"))
    out = []
    for row in scored:
        says = f"{row['name']}: {FILTERS['percent'](row['rate'])}, 95 % interval {interval(*_ends(row), FILTERS['percent'])}"
        kind: Kind = "chosen" if row is remedy else "plain"
        out.append(
            {
                "row": row,
                "track": interval_track(row["rate"], *_ends(row), _UNIT, says=says, kind=kind, bar=True, lines=lines),
            }
        )
    return {
        "rows": out,
        "axis": axis(_UNIT, unit="%"),
        "base": any(line.css == "base" for line in lines),
        "target": target,
    }


def _comparison_chart(verdict: Document) -> list[dict[str, Any]]:
    found = [c for c in verdict.get("comparisons") or [] if number((c.get("gain") or {}).get("value")) is not None]
    if not found:
        return []
    scale = scale_over([v for c in found for v in (c["gain"]["value"], *_ends(c["gain"])) if v is not None], 5)
    delta = number(verdict.get("delta"))
    lines = [] if delta is None else [Line(delta, "delta")]
    out = []
    for c in found:
        gain, points = c["gain"], FILTERS["points"]
        says = f"{c['arm']} against {c['against']}: {points(gain['value'])} points"
        out.append({"c": c, "track": interval_track(gain["value"], *_ends(gain), scale, says=says, lines=lines)})
    return out


def _realised(verdict: Document) -> dict[str, Any] | None:
    """R, where the verdict has it."""
    found = (verdict.get("quantities") or {}).get("R") or {}
    if number(found.get("value")) is None:
        return None
    scale = scale_over([1.0, found["value"], *(end for end in _ends(found) if end is not None)])
    lines = [Line(_READY_SHARE, "delta")]
    says = f"R: {FILTERS['percent'](found['value'])}, ready from 70%"
    track = interval_track(found["value"], *_ends(found), scale, says=says, kind="knowledge", bar=True, lines=lines)
    return {"estimate": found, "track": track, "axis": axis(scale, unit="%")}


def _curves(document: Document) -> list[dict[str, Any]]:
    """Each learning curve with its chart; one without measured points is left out."""
    out = []
    for found in document.get("learning_curve") or []:
        points = [point for point in map(_curve_point, found.get("points") or []) if point is not None]
        if not points:
            continue
        ahead = None if found.get("doubling") is None else _curve_point(found["doubling"])
        rates = ", ".join(f"{FILTERS['percent'](point.rate)} with {point.rows:,} rows" for point in points)
        says = f"Learning curve of {found['arm']}: {rates}"
        out.append({"about": found, "chart": curve(points, number(found.get("closed")), ahead, says=says)})
    return out


def _curve_point(found: Mapping[str, Any]) -> CurvePoint | None:
    rows, rate = number(found.get("rows")), number(found.get("rate"))
    return None if not rows or rate is None else CurvePoint(round(rows), rate, *_ends(found))


def _causes(document: Document) -> list[dict[str, Any]]:
    counts = failed_items(document, 0, 0).counts
    meanings = (document.get("ledger") or {}).get("meanings") or {}
    most = max(counts.values(), default=1)
    scale = Scale(0, most, most)
    return [
        {
            "cause": cause,
            "n": n,
            "meaning": meanings.get(cause) or "",
            "track": bar_track(n, scale, says=f"{cause}: {n}"),
        }
        for cause, n in counts.items()
    ]


def _ends(estimate: Mapping[str, Any]) -> tuple[float | None, float | None]:
    return number(estimate.get("low")), number(estimate.get("high"))
