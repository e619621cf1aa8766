"""What is missing for a firmer verdict: arms, data, and the number of items that would settle it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from advisor import arm_names as arms
from advisor.case import Case
from advisor.evidence import Comparison, at_least, compare, rate
from advisor.findings import NEAR_TARGET
from advisor.quantities import READY_SHARE, both_family
from advisor.rule import Route
from core.power import items_needed
from core.stats import Estimate, wilson

POWER = 0.8
_EXACT_BELOW = 400
"""Up to here the exact test's n is computed; beyond, the normal limit is within 2 % and a thousand times quicker."""


@dataclass(frozen=True, slots=True)
class Need:
    what: str
    n: int | None
    why: str


def needs(case: Case, route: Route, ready: bool | None, realised: Estimate | None) -> list[Need]:
    """The most telling first."""
    found: list[Need] = []
    items = case.table.counts(case.closed.ship).n
    oracle = arms.ORACLE in case.measured or arms.ORACLE_FEW_SHOT in case.measured
    own = arms.RETRIEVED in case.measured
    tuned = arms.TUNE in case.measured
    found += [
        Need(f"arm:{arm}", items, "every call of it failed; run it again once that is mended")
        for arm in case.table.names
        if case.table.counts(arm).n == 0 and arms.family(arm) in arms.REMEDIES
    ]
    open_question = route in ("undecided", "none")
    if open_question and not oracle:
        why = (
            "our own retriever gains too little to tell a knowledge gap from a weak retriever; answer the items with their gold passages"
            if own
            else "no retrieval arm was measured; gold passages (or documents that hold the answers) would show whether knowledge is missing"
        )
        found.append(Need("arm:oracle", items, why))
    elif route in ("prompt", "few-shot", "tune") and own and not oracle and not case.retriever_gains:
        found.append(
            Need(
                "arm:oracle",
                items,
                "our own retriever gains too little, which settles nothing about knowledge; answer the items with their gold passages",
            )
        )
    if route in ("rag", "rag+tune") and not own:
        found.append(
            Need(
                "arm:retrieved",
                items,
                "only our own retriever on the user's documents shows whether retrieval is ready",
            )
        )
    if case.settings.must_retrieve and not own and not oracle:
        found.append(
            Need(
                "documents",
                None,
                f"{', '.join(case.settings.must_retrieve)} asks for retrieval, and no retrieval arm was measured",
            )
        )
    if ready is False:
        found.append(_for_retrieval(case, items, realised))
    if route in ("prompt", "few-shot", "tune") and (lead := _passages_lead(case, route)) is not None:
        found.append(lead)
    if case.all_barred:
        found.append(Need("limits", None, "no measured arm keeps the declared limits; a faster or cheaper model might"))
    elif route == "undecided" and (limit := _over_a_limit(case)) is not None:
        found.append(limit)
    if open_question and not tuned and both_family(case.measured) is None:
        found.append(
            Need("training_rows", 200, "tuning was not measured; 50 to 200 training rows allow a pilot (arm tune)")
        )
    found += _parts_alone(case, route, items)
    if both_family(case.measured) is None and _both_in_question(case, route):
        found.append(
            Need(
                "arm:tune_retrieved",
                items,
                "retrieval and tuning each help; only an arm with both shows whether together they beat the better one",
            )
        )
    if route == "rag+tune" and not tuned:
        found.append(
            Need("arm:tune", items, "the combination was compared with retrieval alone, not with tuning alone")
        )
    if route == "undecided" and (n := items_to_settle(case)) is not None:
        seen = min((gate.gain.n for gate in case.gates.values()), default=items)
        shared = f"{seen} items" if seen == items else f"{seen} shared items"
        groups = 0 if case.table.clusters is None else len(np.unique(case.table.clusters))
        clusters = f" in some {math.ceil(groups * n / items)} clusters" if groups else ""
        found.append(
            Need(
                "items",
                n,
                f"with {shared} the intervals are too wide; about {n}{clusters} would settle it with {POWER:.0%} chance",
            )
        )
    if route == "undecided" and not found:
        best = max(case.gates.values(), key=lambda gate: gate.gain.value)
        found.append(
            Need(
                f"arm:{best.arm.partition(':')[0]}",
                items,
                "every remedy that may still gain is harmful; one that breaks less would have to be measured",
            )
        )
    return _once(found)


def _once(found: list[Need]) -> list[Need]:
    """An arm is asked for once, for the first reason."""
    asked = [need.what for need in found]
    return [n for i, n in enumerate(found) if not n.what.startswith("arm:") or n.what not in asked[:i]]


def _for_retrieval(case: Case, items: int, realised: Estimate | None) -> Need:
    """What our retriever lacks where it is not ready."""
    why = case.left_out(arms.RETRIEVED)
    if realised is not None and at_least(realised.value, READY_SHARE) and why is not None:
        mend = (
            "an answer format, demonstrations or tuning may mend it"
            if why == "harmful"
            else "a faster or cheaper one is needed"
        )
        return Need(f"arm:{arms.RETRIEVED}", items, f"our retriever finds what is needed, but is {why}; {mend}")
    found = (
        "our retriever is not shown to gain over the base"
        if realised is None
        else "retrieval finds too little of what is needed"
    )
    return Need(
        "documents",
        None,
        f"{found}; check that the answers stand in the documents, then chunking, embedding model and top_k",
    )


def _over_a_limit(case: Case) -> Need | None:
    """What would gain, or what a constraint asks for, and a declared limit bars."""
    if case.settings.must_retrieve and case.rag_barred:
        return Need("limits", None, "our retriever is over a declared limit; a faster or cheaper one, or a wider limit")
    barred = [
        gate.arm
        for (family, _), gate in case.gates.items()
        if case.left_out(family) == "over a limit" and gate.shows(case.settings.delta, case.settings.alpha)
    ]
    if not barred:
        return None
    names = " and ".join(dict.fromkeys(barred))
    return Need(
        "limits", None, f"{names} would gain and is over a declared limit; make it faster or cheaper, or widen it"
    )


def _parts_alone(case: Case, route: Route, items: int) -> list[Need]:
    """The single arms without which a gain of an arm that combines two things says nothing of either."""
    found = []
    demonstrated = case.gains((arms.ORACLE_FEW_SHOT, "correct")) and arms.FEW_SHOT not in case.measured
    if demonstrated and route not in ("rag", "rag+tune"):
        why = "passages with demonstrations gain; demonstrations alone would show which of the two does it"
        found.append(Need(f"arm:{arms.FEW_SHOT}", items, why))
    both = case.combined
    if both is not None and case.rival_of_both is None and case.gains((both, "correct")):
        passages = arms.RETRIEVED if both == arms.TUNE_RETRIEVED else arms.ORACLE
        why = "tuning with passages gains; each of the two alone would show whether both are needed"
        found += [Need(f"arm:{passages}", items, why), Need(f"arm:{arms.TUNE}", items, why)]
    return found


def items_to_settle(case: Case) -> int | None:
    """Items for the leading remedy to show its gain, or, where none gains delta, for all to be ruled out; None without arms."""
    delta = case.settings.delta
    base = rate(case.table, case.closed.ship)
    if at_least(base.value, case.settings.target) and not any(
        at_least(g.gain.value, delta) for g in case.gates.values()
    ):
        return _items_for_target(base.value, case.settings.target - NEAR_TARGET * delta, base.n)
    open_gates = [gate for key, gate in case.gates.items() if key[0] in case.allowed and not case.gains(key)]
    if not open_gates:
        return None
    best = max(open_gates, key=lambda gate: gate.gain.value)
    if at_least(best.gain.value, delta):
        needed = _items_to_show(best, case, max(case.settings.alpha * 2 / len(case.gates), 1e-6))
        return max(needed, math.ceil(1.25 * best.gain.n))
    unsure = [gate for gate in open_gates if gate.gain.high >= delta]
    if not unsure:
        return None
    return max(max(_items_to_rule_out(gate, case), math.ceil(1.25 * gate.gain.n)) for gate in unsure)


def _items_to_show(gate: Comparison, case: Case, alpha: float) -> int:
    gain, alpha = gate.gain.value, min(alpha, case.settings.alpha)
    spread = _spread(gate, case)
    n = math.ceil(
        (float(-ndtri(alpha / 2)) * math.sqrt(spread) + float(ndtri(POWER)) * math.sqrt(max(spread - gain**2, 0))) ** 2
        / gain**2
    )
    if gate.paired and not case.table.graded and n < _EXACT_BELOW:
        tenths = round(100 * gain, 1)
        # What is lost besides must leave room for the gain as it was rounded.
        return items_needed(tenths, min(round((spread - gain) / 2, 3), (1 - tenths / 100) / 2), POWER, alpha)
    return n


def _items_to_rule_out(gate: Comparison, case: Case) -> int:
    delta = case.settings.delta
    # A gain just under delta would ask for endless items; half of delta is told apart from delta instead.
    gap = delta - min(max(gate.gain.value, 0.0), delta / 2)
    z = float(ndtri(0.975) + ndtri(POWER))
    return math.ceil(max(z**2 * _spread(gate, case) / gap**2, 3.84 * (1 / gap - 1)))


def _spread(gate: Comparison, case: Case) -> float:
    """Variance of one item's difference, read back from the interval; never under that of 2 % lost."""
    half = (gate.gain.high - gate.gain.low) / 2
    variance = gate.gain.n * (half / 1.96) ** 2 + gate.gain.value**2
    if (
        gate.paired
        and not case.table.graded
        and case.table.clusters is None
        and gate.gained is not None
        and gate.lost is not None
    ):
        variance = (gate.gained + gate.lost) / gate.gain.n
    return max(variance, abs(gate.gain.value) + 0.04)


def _items_for_target(value: float, floor: float, n: int) -> int | None:
    for factor in range(5, 400):
        larger = math.ceil(n * factor / 4)
        if wilson(value * larger, larger).low >= floor:
            return larger
    return None


def _passages_lead(case: Case, route: Route) -> Need | None:
    """Where passages gain clearly more than the route does: retrieval, once mended, would be the better remedy."""
    family = {"prompt": arms.PROMPT, "few-shot": arms.FEW_SHOT, "tune": arms.TUNE}[route]
    if arms.RETRIEVED not in case.measured:
        return None
    why = case.left_out(arms.RETRIEVED)
    passages = arms.ORACLE if why is None else arms.RETRIEVED
    if why is None and arms.ORACLE not in case.allowed:
        return None
    over = compare(case.table, case.measured[passages], case.measured[family])
    if over is None or not over.shows(case.settings.delta, case.settings.alpha):
        return None
    lead = f"gain {100 * over.gain.value:.1f} points over {case.measured[family].name}"
    if why is None:
        return Need(
            "documents", None, f"gold passages {lead}, our retriever does not; mend retrieval and measure again"
        )
    what = "limits" if why == "over a limit" else "documents"
    return Need(what, None, f"passages of our retriever {lead}, but it is {why}; once that is mended, measure again")


def _both_in_question(case: Case, route: Route) -> bool:
    if route not in ("rag", "tune"):
        return False
    rag = any(case.gains((family, "correct")) for family in (arms.RETRIEVED, arms.ORACLE, arms.ORACLE_FEW_SHOT))
    return rag and case.gains((arms.TUNE, "correct"))
