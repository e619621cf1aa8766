"""K, R, F, D, L, B, X and H of decision.md, each with its interval, or None when the table cannot tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from advisor import arm_names as arms
from advisor.evidence import Draws, Measure, Side, compare, harm
from advisor.outcomes import OutcomeTable, Totals
from core.stats import Estimate, paired_difference, share, wilson

READY_SHARE = 0.7
"""R from which our retriever counts as realising what perfect retrieval would give (decision.md, rule 2)."""

Quantities = dict[str, Estimate | None]


def quantities(table: OutcomeTable, sides: Mapping[str, Side], draws: Draws, route_arm: str | None) -> Quantities:
    """All eight, by letter. `sides` by family, `closed` among them; H is that of `route_arm`."""
    closed = sides[arms.CLOSED]
    return {
        "K": _gain(table, sides, knowledge_family(sides), [arms.CLOSED], "content"),
        "R": realised_share(table, sides, draws),
        "F": form_gap(table, closed),
        "D": _gain(table, sides, arms.FEW_SHOT, [arms.PROMPT if arms.PROMPT in sides else arms.CLOSED]),
        "L": _gain(table, sides, arms.TUNE, prompting(sides)),
        "B": _gain(table, sides, both_family(sides), singles(sides))
        if len(singles(sides)) > len(prompting(sides))
        else None,
        "X": _residual(sides),
        "H": None if route_arm is None else harm(table, route_arm, closed.ship),
    }


def knowledge_family(sides: Mapping[str, Side]) -> str | None:
    """The arm that K is read from: the oracle, else our own retriever in its stead."""
    return next((f for f in (arms.ORACLE, arms.RETRIEVED) if f in sides), None)


def both_family(sides: Mapping[str, Side]) -> str | None:
    return next((f for f in (arms.TUNE_RETRIEVED, arms.TUNE_ORACLE) if f in sides), None)


def prompting(sides: Mapping[str, Side]) -> list[str]:
    """A0, A1 and A2, as far as measured: what tuning has to beat."""
    return [f for f in (arms.CLOSED, arms.PROMPT, arms.FEW_SHOT) if f in sides]


def passages(sides: Mapping[str, Side]) -> list[str]:
    """The retrieval arms that the both-arm has to beat: with its own passages A4 before A3, with gold ones A3 before A4."""
    own, gold = [arms.RETRIEVED], [arms.ORACLE, arms.ORACLE_FEW_SHOT]
    order = [own, gold] if both_family(sides) != arms.TUNE_ORACLE else [gold, own]
    return next((found for group in order if (found := [f for f in group if f in sides])), [])


def singles(sides: Mapping[str, Side]) -> list[str]:
    """Every single remedy that the both-arm has to beat."""
    return prompting(sides) + passages(sides) + [f for f in (arms.TUNE,) if f in sides]


def best_of(sides: Mapping[str, Side], families: Sequence[str]) -> str:
    """The family with the highest rate, by its gain over `closed` on shared items; the first of equals."""
    closed = sides[arms.CLOSED]

    def height(family: str) -> float:
        found = compare_rate(sides[family], closed)
        return -2.0 if found is None else found

    return max(families, key=height)


def compare_rate(a: Side, b: Side, measure: Measure = "correct") -> float | None:
    """Mean gain of `a` over `b` on shared items, without its interval; None when they share none."""
    first, second = a.measure(measure), b.measure(measure)
    if isinstance(first, Totals) or isinstance(second, Totals):
        assert isinstance(first, Totals)
        assert isinstance(second, Totals)
        return first.correct / first.n - second.correct / second.n
    difference = first - second
    difference = difference[~np.isnan(difference)]
    return float(difference.mean()) if difference.size else None


def realised_share(table: OutcomeTable, sides: Mapping[str, Side], draws: Draws) -> Estimate | None:
    """R = (A4 - A0) / (A3 - A0) on content; None unless K's lower bound is over 0 (a ratio to nothing says nothing)."""
    if arms.ORACLE not in sides or arms.RETRIEVED not in sides:
        return None
    closed = sides[arms.CLOSED]
    whole = compare(table, sides[arms.ORACLE], closed, "content")
    part = compare(table, sides[arms.RETRIEVED], closed, "content")
    if whole is None or part is None or whole.gain.low <= 0:
        return None
    below = draws.content[arms.CLOSED]
    headroom = draws.content[arms.ORACLE] - below
    realised = draws.content[arms.RETRIEVED] - below
    ratio = realised[headroom > 0] / headroom[headroom > 0]
    low, high = np.quantile(ratio, [0.025, 0.975])
    value = part.gain.value / whole.gain.value
    return Estimate(value, min(float(low), value), max(float(high), value), min(part.gain.n, whole.gain.n))


def form_gap(table: OutcomeTable, arm: Side) -> Estimate | None:
    """F: content right and shape wrong. None where the table does not score content apart."""
    if not table.content_given or isinstance(arm.correct, Totals) or isinstance(arm.content, Totals):
        return None
    scored = ~np.isnan(arm.correct)
    return paired_difference(arm.content[scored], arm.correct[scored]) if scored.any() else None


def _gain(
    table: OutcomeTable,
    sides: Mapping[str, Side],
    family: str | None,
    rivals: Sequence[str],
    measure: Measure = "correct",
) -> Estimate | None:
    if family is None or family not in sides:
        return None
    found = compare(table, sides[family], sides[best_of(sides, rivals)], measure)
    return None if found is None else found.gain


def _residual(sides: Mapping[str, Side]) -> Estimate | None:
    if arms.ORACLE_FEW_SHOT not in sides:
        return None
    content = sides[arms.ORACLE_FEW_SHOT].content
    if isinstance(content, Totals):
        return wilson(content.n - content.correct, content.n)
    scored = content[~np.isnan(content)]
    return share(1 - scored) if scored.size else None
