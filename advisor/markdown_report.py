"""The advisor's report as Markdown, for a pull request or a wiki: the HTML report's figures without its charts.

Every value is escaped unless a filter made it, so that an answer cannot become markup.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from advisor.html_report import TEMPLATES, environment
from advisor.report_view import (
    FILTERS,
    alarms,
    arm_rows,
    base_row,
    failed_items,
    interval,
    quantities,
    route_row,
    title,
)

MAX_ITEMS = 10
MAX_ITEM_BYTES = 60_000
"""A reader of Markdown wants a sample; report.html and report.json have more."""

_MARKUP = re.compile(r"([\\`*\[\]|~#]|(?<!\w)_|_(?!\w)|^\s*(?:[+-](?=\s)|\d+(?=[.)]\s)))")


def render_markdown(document: Mapping[str, Any]) -> str:
    """The report of `document` (report.json). A part that the document lacks is left out."""
    verdict = document.get("verdict") or {}
    rows = arm_rows(document)
    text = (
        _templates()
        .get_template("report.md.j2")
        .render(
            doc=document,
            verdict=verdict,
            title=title(verdict),
            alarms=alarms(document),
            arms=rows,
            base=base_row(rows),
            remedy=route_row(rows, verdict),
            quantities=quantities(verdict, rows),
            items=failed_items(document, MAX_ITEMS, MAX_ITEM_BYTES),
        )
    )
    text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    return text.encode("utf-8", "replace").decode("utf-8")


def escaped(value: object) -> str:
    """`value` as plain Markdown text on one line."""
    if isinstance(value, Markup):
        return str(value)
    line = " ".join(str(value).split())
    return _MARKUP.sub(r"\\\1", line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def code(value: object) -> Markup:
    """`value` as a code span, also inside a table."""
    line = " ".join(str(value).split()).replace("`", "'").replace("|", "\\|")
    return Markup(f"`{line}`") if line else Markup("")


@cache
def _templates() -> Environment:
    html = environment()
    env = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=False,  # `finalize` escapes, for Markdown
        undefined=html.undefined,
        finalize=escaped,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(FILTERS | {"code": code})
    env.globals.update(interval=interval, percent=FILTERS["percent"], points=FILTERS["points"])
    env.globals.update(score=FILTERS["score"], gb=FILTERS["gb"])
    return env
