"""The verdict in sentences with their numbers."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from advisor import arm_names as arms
from advisor.case import Case
from advisor.evidence import Comparison, Measure, at_least, rate
from advisor.figures import chance, points
from advisor.findings import tested
from advisor.quantities import READY_SHARE, Quantities
from advisor.rule import Route
from core.power import detectable_points
from core.stats import Estimate


@dataclass(frozen=True, slots=True)
class Notice:
    """A warning of the verdict."""

    code: str
    text: str


def reasons(
    case: Case,
    route: Route,
    leading: Route,
    shares: Mapping[Route, float],
    found: Quantities,
    ready: bool | None,
) -> list[str]:
    """One sentence each: where the base stands, what decided, what each other remedy showed."""
    settings = case.settings
    base = rate(case.table, case.closed.ship)
    out = [
        f"The base model alone gets {_share(base)} right; the target is {settings.target:.0%}, "
        f"the smallest gain worth money {100 * settings.delta:g} points."
    ]
    if settings.must_retrieve:
        out.append(
            f"Declared as {', '.join(settings.must_retrieve)}: only retrieval can keep that, whatever the rates."
        )
    if case.gates:
        out.append(what_n_shows(case))
    decisive = _decisive(case, route)
    out += [_gain_sentence(comparison, case) for comparison in decisive]
    if (behind := _unproven_rival(case, route)) is not None:
        out.append(
            f"{behind.against} has shown no gain itself and is {100 * behind.gain.value:.1f} points behind "
            f"(one-sided p = {_p(behind.p_gain)}), so the remedy that is known to gain is taken."
        )
    if route == "rag":
        out += _retrieval_sentences(case, found, ready)
    if route == "none":
        out.append(
            f"No usable remedy that was measured can gain {100 * settings.delta:g} points, and the base misses the target: "
            "better labels, a bigger model, tools or other documents may help."
        )
    if route == "base":
        out.append("The base meets the target and no remedy shows a gain worth its cost.")
    if route in ("rag", "tune"):
        out += _between_retrieval_and_tuning(case)
    if route == "undecided":
        found_leading = (
            f"leading is {leading}, with a chance of {chance(shares[leading])}"
            if shares[leading] > shares["undecided"]
            else "these arms alone cannot tell which route is right, however many items they answer"
        )
        out.append(f"Undecided: {_why_open(case) or f'{_what_is_shown(case)}; {found_leading}'}.")
    # What a remedy was shown against its rival says more than what it was shown against the base.
    rivals = [*case.rivals.values(), *([] if case.few_shot_over_prompt is None else [case.few_shot_over_prompt])]
    told = {(c.arm, c.against, c.measure) for c in decisive}
    for comparison in [*rivals, *case.gates.values()]:
        if (comparison.arm, comparison.against, comparison.measure) not in told:
            told.add((comparison.arm, comparison.against, comparison.measure))
            out.append(_gain_sentence(comparison, case))
    return [*out, *_variant_sentences(case, told)]


def _decisive(case: Case, route: Route) -> list[Comparison]:
    """The comparisons that the route rests on."""
    both = case.combined
    keys: dict[str, list[tuple[str, Measure]]] = {
        "prompt": [(arms.PROMPT, "correct")],
        "few-shot": [(arms.FEW_SHOT, "correct")],
        "rag": [(f, m) for f in (arms.ORACLE, arms.ORACLE_FEW_SHOT, arms.RETRIEVED) for m in _measures()],
        "tune": [(arms.TUNE, "correct")],
        "rag+tune": [(both, "correct")] if both is not None else [],
    }
    name = {"rag+tune": "both"}.get(route, route)
    out = [case.gates[key] for key in keys.get(route, []) if key in case.gates]
    out += [c for (rival_of, _), c in case.rivals.items() if rival_of == name]
    if route == "few-shot" and case.few_shot_over_prompt is not None:
        out.append(case.few_shot_over_prompt)
    return out


def _unproven_rival(case: Case, route: Route) -> Comparison | None:
    """The rival that the route leads without being shown to (findings.tested)."""
    wanted = {"tune": "tune", "rag+tune": "both"}.get(route)
    over = next((c for (of, _), c in case.rivals.items() if of == wanted), None)
    return None if over is None or over.shows(case.settings.delta, case.settings.alpha) else over


def what_n_shows(case: Case) -> str:
    """The gain that so many items can show, in a sentence: by the exact test where that is the test, else by the spread seen."""
    n = min(gate.gain.n for gate in case.gates.values())
    if case.table.paired and not case.table.graded and case.table.clusters is None:
        least, how = detectable_points(min(n, 2000)), "exact McNemar, 5 % lost, 80 % power"
    else:
        # 1.96 and 0.84 standard errors: the interval's reach, and that of 80 % power.
        widest = max(gate.gain.high - gate.gain.low for gate in case.gates.values()) / 2
        least, how = math.ceil(100 * widest * (1.96 + 0.84) / 1.96), "by the spread seen, 80 % power"
    groups = case.table.clusters
    of = "" if groups is None else f" in {len(np.unique(groups))} clusters"
    if least is None or least > 100:
        return f"{n} items{of} show only the largest gains, and not reliably ({how})."
    return f"{n} items{of} can show a gain of {least} points or more ({how})."


def _measures() -> tuple[Measure, ...]:
    return ("content", "correct")


def _gain_sentence(c: Comparison, case: Case) -> str:
    settings = case.settings
    counts = f"{c.gained} gained, {c.lost} lost of {c.gain.n}" if c.paired else f"unpaired, n = {c.gain.n}"
    if c.shows(settings.delta, settings.alpha):
        says = "gains"
    elif c.gain.high < 0:
        says = "loses"
    elif c.gain.high < settings.delta:
        says = "does not gain as much as delta"
    else:
        says = "is not shown to gain"
    what = " in content" if c.measure == "content" else ""
    why_not = case.left_out(arms.family(c.arm)) if says == "gains" else None
    return (
        f"{c.arm} {says}{what} against {c.against}: {points(c.gain.value)} points "
        f"(95 % interval {points(c.gain.low)} to {points(c.gain.high)}; {counts}; p = {_p(c.p)}, Holm {_p(c.p_holm)})"
        f"{'' if why_not is None else f', but may not be used: {why_not}'}."
    )


def _why_open(case: Case) -> str | None:
    """Why no evidence could settle it: what is declared cannot be kept."""
    if case.settings.must_retrieve and case.rag_barred:
        return f"{', '.join(case.settings.must_retrieve)} asks for retrieval, and our retriever is over a declared limit; one of the two has to give"
    return "no measured arm, the base included, keeps the declared limits" if case.all_barred else None


def _what_is_shown(case: Case) -> str:
    """What is known of the remedies where none can be taken."""
    shown = {f: g for (f, _), g in case.gates.items() if g.shows(case.settings.delta, case.settings.alpha)}
    left_out = [f"{gate.arm} ({case.left_out(family)})" for family, gate in shown.items() if case.left_out(family)]
    unmatched = [family for family in shown if family in case.allowed]
    out = []
    if left_out:
        out.append(f"{' and '.join(left_out)} would gain and may not be used")
    for family in unmatched:
        rival = next((c for (_, key), c in case.rivals.items() if key[0] == family), None)
        if rival is not None:
            behind = f"it is not shown to gain against {rival.against}"
        elif family == arms.ORACLE and case.rag_barred:
            behind = "our own retriever is over a limit"
        else:
            behind = "what it has to be compared with was not measured"
        out.append(f"{shown[family].arm} gains against the base, but {behind}")
    if not out:
        return "no remedy is shown to gain, and not all are ruled out"
    return "; ".join(out) if unmatched else f"{out[0]}, and no other remedy is shown to gain"


def _between_retrieval_and_tuning(case: Case) -> list[str]:
    """Where both are candidates: which one is ahead with what can be shipped, or which one costs less."""
    found = tested(case)
    if not (found.rag[0] and found.tune[0]) or case.rag_arm is None:
        return []
    lead, delta = float(found.rag_lead[0]), case.settings.delta
    if case.cheaper is not None and abs(lead) < delta - 1e-9:
        return [f"Between retrieval and tuning, {case.cheaper} costs less per 1,000 queries; it wins within delta."]
    rag, tune = case.measured[case.rag_arm].name, case.measured[arms.TUNE].name
    if lead == 0:
        return [f"Retrieval and tuning both gain, and {rag} is level with {tune}."]
    first, second = (rag, tune) if lead > 0 else (tune, rag)
    return [f"Retrieval and tuning both gain; {first} is {100 * abs(lead):.1f} points ahead of {second}."]


def _variant_sentences(case: Case, told: Collection[tuple[str, str, Measure]]) -> list[str]:
    """What stands for a family of several variants, where its name does not say so."""
    out = []
    named = {name for arm, against, _ in told for name in (arm, against)}
    for family, item in case.measured.items():
        if item.name.endswith(":cross-fit") and item.name in named:
            out.append(
                f"{item.name} is each half of the items answered by the variant that is better on the other half, "
                f"so that the choice does not flatter; {item.ship} is the variant to ship."
            )
        rates = {arm: rate(case.table, arm).value for arm in case.against_closed if arms.family(arm) == family}
        best = max(rates, key=lambda arm: rates[arm], default=item.ship)
        if family == arms.TUNE and arms.tuning_method(item.ship) == "head" and rates.get(best, 0) > rates[item.ship]:
            out.append(
                f"{item.ship} ({rates[item.ship]:.1%}) stands for tuning beside {best} ({rates[best]:.1%}): "
                f"it is cheaper, and within {100 * case.settings.delta:g} points."
            )
    return out


def _retrieval_sentences(case: Case, found: Quantities, ready: bool | None) -> list[str]:
    out = []
    realised, gap = found["R"], found["F"]
    why_not = case.left_out(arms.RETRIEVED)
    if ready is None:
        out.append("Our own retriever was not measured, so whether retrieval is ready is open.")
    elif realised is not None:
        share = (
            f"it realises {realised.value:.0%} of what gold passages give "
            f"(95 % interval {realised.low:.0%} to {realised.high:.0%}, n = {realised.n}; ready from 70 %)"
        )
        if not ready and why_not is not None and at_least(realised.value, READY_SHARE):
            out.append(f"Our retriever finds enough, {share}, but may not be used as it is: {why_not}.")
        else:
            out.append(f"Our retriever {'is ready' if ready else 'is not ready'}: {share}.")
    elif arms.ORACLE not in case.measured and case.retriever_gains:
        out.append("There is no oracle arm; the gain of our own retriever stands in for it.")
    elif arms.ORACLE not in case.measured and case.rag_arm == arms.RETRIEVED:
        alone = "There is no oracle arm, and our" if arms.ORACLE_FEW_SHOT not in case.measured else "Our"
        out.append(f"{alone} own retriever is not shown to gain.")
    if gap is not None and gap.value >= case.settings.delta:
        out.append(
            f"The base has {100 * gap.value:.1f} points of answers with the right content in the wrong shape (n = {gap.n})."
        )
    return out


def _share(estimate: Estimate) -> str:
    return f"{estimate.value:.1%} (95 % interval {estimate.low:.1%} to {estimate.high:.1%}, n = {estimate.n})"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{np.format_float_scientific(value, precision=0, trim='-')}"
