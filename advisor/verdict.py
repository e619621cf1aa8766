"""From an outcome table to a verdict: a pure function of outcomes and settings (decision.md, "The rule")."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from advisor import arm_names as arms
from advisor.case import Case
from advisor.cautions import warnings
from advisor.evidence import Comparison, at_least, compare, rate
from advisor.findings import drawn, tested
from advisor.needs import Need, needs
from advisor.outcomes import OutcomeTable
from advisor.quantities import READY_SHARE, Quantities, best_of, quantities
from advisor.reasons import Notice, reasons
from advisor.rule import ROUTES, ArmCost, DecisionSettings, Findings, Route, choose
from core.stats import Estimate

__all__ = ["ArmCost", "ArmSummary", "DecisionSettings", "Verdict", "decide", "route_shares"]

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class ArmSummary:
    n: int
    """Scored items, errors apart."""
    correct: int | None
    """None in a graded table."""
    wrong: int | None
    refused: int
    error: int
    rate: float | None
    """correct / n, or the mean score; None when every call failed."""
    low: float | None
    high: float | None
    latency_p95_s: float | None = None
    usd_per_1k: float | None = None
    harm: Estimate | None = None


@dataclass(frozen=True)
class Verdict:
    route: Route
    method: Literal["lora", "head"] | None
    """How to tune, where the route tunes."""
    confidence: float
    """Chance that the route is the one the rule would choose on endless items; of the leading route when undecided."""
    route_arm: str | None
    """The measured arm that the route would ship (`closed` for base); None where there is none, or it was not measured."""
    ready: bool | None
    """Whether our own retriever does its part; None where the route has none or it was not measured."""
    delta: float
    quantities: Quantities
    arms: dict[str, ArmSummary]
    comparisons: list[Comparison]
    needs: list[Need]
    warnings: list[Notice]
    reasons: list[str]

    def to_json(self) -> dict[str, Any]:
        """The verdict as in architecture.md (CONTRACT), ready for json.dumps."""
        plain = {**asdict(replace(self, comparisons=[])), "comparisons": [c.to_json() for c in self.comparisons]}
        return {"schema_version": SCHEMA_VERSION, **plain}


def decide(table: OutcomeTable, settings: DecisionSettings | None = None) -> Verdict:
    """The verdict on `table`. Deterministic, and the same for any order of the table's rows."""
    settings = settings or DecisionSettings()
    case = Case(table, settings)
    if case.closed_arm is None:
        return _without_base(case)
    route = ROUTES[int(_chosen(case, tested(case))[0])]
    shares = route_shares(case)
    leading = max((r for r in ROUTES if r != "undecided"), key=lambda r: shares[r]) if route == "undecided" else route
    arm = _route_arm(case, leading)
    found = quantities(table, case.measured, case.draws, arm)
    ready = _ready(case, route, found["R"])
    shipped = _shipped(case, route)
    return Verdict(
        route=route,
        method=_method(case, route),
        confidence=round(min(shares[leading], _by_constraint(case, route)), 4),
        route_arm=shipped,
        ready=ready,
        delta=settings.delta,
        quantities=found,
        arms=_summaries(case),
        comparisons=_comparisons(case),
        needs=needs(case, route, ready, found["R"]),
        warnings=warnings(case, route, ready, found["R"], shipped),
        reasons=reasons(case, route, leading, shares, found, ready),
    )


def route_shares(case: Case) -> dict[Route, float]:
    """How often the rule chooses each route over the bootstrap draws; no share is ever exactly 0 or 1."""
    chosen = _chosen(case, drawn(case))
    counts = np.bincount(chosen, minlength=len(ROUTES))
    return {route: float((counts[i] + 0.5) / (len(chosen) + 0.5 * len(ROUTES))) for i, route in enumerate(ROUTES)}


def _chosen(case: Case, found: Findings) -> NDArray[np.int64]:
    """Index into ROUTES for each element: retrieval that a constraint asks for and a hard limit bars settles nothing."""
    chosen = choose(found, case.settings, case.cheaper)
    if case.settings.must_retrieve and case.rag_barred:
        chosen = np.where(chosen == ROUTES.index("rag"), ROUTES.index("undecided"), chosen)
    return chosen


def _by_constraint(case: Case, route: Route) -> float:
    """Chance that retrieval is no worse than the base, where a constraint and no evidence chose it; else 1.

    What is declared is certain, but a verdict that nobody measured is not: one half without a retrieval arm.
    """
    if not case.settings.must_retrieve or route != "rag":
        return 1.0
    if case.rag_arm is None:
        return 0.5
    return float((case.draws.content[case.rag_arm] >= case.draws.content[arms.CLOSED]).mean())


def _ready(case: Case, route: Route, realised: Estimate | None) -> bool | None:
    if route not in ("rag", "rag+tune"):
        return None
    if route == "rag+tune" and case.combined == arms.TUNE_RETRIEVED:
        # Its gain was measured with our own passages, even where retrieval alone shows none; gold ones may give more.
        return realised is None or at_least(realised.value, READY_SHARE)
    if arms.RETRIEVED not in case.measured:
        return None
    own = case.measured[arms.RETRIEVED].ship
    # On content, as K and R are: an answer of the wrong shape was still found.
    gain = compare(case.table, case.measured[arms.RETRIEVED], case.closed, "content")
    if own in case.harmful or own in case.barred or gain is None or gain.gain.low <= 0:
        return False
    if realised is None:
        return case.retriever_gains
    return at_least(realised.value, READY_SHARE)


def _method(case: Case, route: Route) -> Literal["lora", "head"] | None:
    family = {"tune": arms.TUNE, "rag+tune": case.combined}.get(route)
    if family is None:
        return None
    return "head" if arms.tuning_method(case.measured[family].ship) == "head" else "lora"


def _route_arm(case: Case, route: Route) -> str | None:
    """The arm that stands for the route; for base, none and undecided the remedy with the highest rate."""
    family = {
        "prompt": arms.PROMPT,
        "few-shot": arms.FEW_SHOT,
        "rag": case.rag_arm,
        "tune": arms.TUNE,
        "rag+tune": case.combined,
    }.get(route)
    if family is None:
        others = [f for f in case.measured if f != arms.CLOSED]
        family = best_of(case.measured, others) if others else None
    return None if family is None or family not in case.measured else case.measured[family].ship


def _shipped(case: Case, route: Route) -> str | None:
    """The arm that `build` would make of the route. Gold passages are not there to ship: an oracle arm is none."""
    if route == "base":
        return case.closed.ship
    families = {
        "prompt": arms.PROMPT,
        "few-shot": arms.FEW_SHOT,
        "rag": arms.RETRIEVED,
        "tune": arms.TUNE,
        "rag+tune": arms.TUNE_RETRIEVED,
    }
    family = families.get(route)
    return None if family is None or family not in case.allowed else case.allowed[family].ship


def _summaries(case: Case) -> dict[str, ArmSummary]:
    out = {}
    for arm in case.table.names:
        counts = case.table.counts(arm)
        found = rate(case.table, arm) if counts.n else None
        out[arm] = ArmSummary(
            counts.n,
            counts.correct,
            counts.wrong,
            counts.refused,
            counts.error,
            None if found is None else found.value,
            None if found is None else found.low,
            None if found is None else found.high,
            case.latency_p95_s(arm),
            case.usd_per_1k(arm),
            case.harms.get(arm) if case.closed_arm is not None else None,
        )
    return out


def _comparisons(case: Case) -> list[Comparison]:
    """Every arm against the base, then what the rule compared beside that."""
    gates = {(c.arm, c.measure): c for c in case.gates.values()}
    listed = {
        (c.arm, c.against, c.measure): gates.get((c.arm, c.measure), c)
        for c in [*case.against_closed.values(), *case.gates.values()]
    }
    others = [case.few_shot_over_prompt] if case.few_shot_over_prompt is not None else []
    for comparison in [*others, *case.rivals.values()]:
        listed.setdefault((comparison.arm, comparison.against, comparison.measure), comparison)
    return list(listed.values())


def _without_base(case: Case) -> Verdict:
    names = ", ".join(case.table.names)
    failed = any(arms.family(arm) == arms.CLOSED for arm in case.table.names)
    why = (
        "every call of the arm closed failed; run it again once the endpoint answers"
        if failed
        else f"there is no arm called closed (the base model alone) among {names}; every gain is measured against it"
    )
    return Verdict(
        route="undecided",
        method=None,
        confidence=0.0,
        route_arm=None,
        ready=None,
        delta=case.settings.delta,
        quantities=dict.fromkeys("KRFDLBXH"),
        arms=_summaries(case),
        comparisons=[],
        needs=[Need("arm:closed", None, why)],
        warnings=warnings(case, "undecided", None, None, None),
        reasons=[f"Undecided: {why}. The target is {case.settings.target:.0%}."],
    )
