"""The verdict in sentences with their numbers, and the warnings that go with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np

from advisor import arm_names as arms
from advisor.case import Case, points
from advisor.evidence import Comparison, Measure, rate
from advisor.findings import tested
from advisor.quantities import Quantities
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
        out.append(_what_n_shows(case))
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
    if route == "undecided":
        found_leading = (
            f"leading is {leading} at {shares[leading]:.0%}"
            if shares[leading] > shares["undecided"]
            else "these arms alone cannot tell which route is right, however many items they answer"
        )
        out.append(f"Undecided: no remedy is shown to gain, and not all are ruled out; {found_leading}.")
    told = {(c.arm, c.against, c.measure) for c in decisive}
    for gate in case.gates.values():
        if (gate.arm, gate.against, gate.measure) not in told:
            out.append(_gain_sentence(gate, case))
    found_by_tests = tested(case)
    if case.cheaper is not None and route in ("rag", "tune") and found_by_tests.rag[0] and found_by_tests.tune[0]:
        out.append(f"Between retrieval and tuning, {case.cheaper} costs less per 1,000 queries; it wins within delta.")
    return out


def warnings(case: Case, route: Route, ready: bool | None, realised: Estimate | None) -> list[Notice]:
    table = case.table
    out: list[Notice] = []
    for arm in table.names:
        counts = table.counts(arm)
        if counts.n == 0:
            out.append(
                Notice("arm_failed", f"Every call of {arm} failed ({counts.error}); the arm counts as not measured.")
            )
        elif counts.error:
            out.append(Notice("errors", f"{counts.error} calls of {arm} failed; they are left out, not scored wrong."))
    if table.paired and case.settings.stepwise:
        pass
    elif table.paired:
        lacking = {arm: int((table.arms[arm].outcome == 0).sum()) for arm in table.names}
        short = [f"{arm} ({n})" for arm, n in lacking.items() if n]
        if short:
            out.append(
                Notice(
                    "missing_items",
                    f"Items without a row in {', '.join(short)} of {len(table.items)}; arms are compared on the items they share.",
                )
            )
    else:
        out.append(
            Notice(
                "unpaired",
                "Only totals are known: the tests are unpaired, and weaker than on the same items row by row.",
            )
        )
    if case.closed_arm is None:
        return out
    out += _unknown_arms(table.names)
    out += [Notice("harm", text) for text in [*case.harmful.values(), *case.follows_junk.values()]]
    out += [Notice("constraint", text) for text in case.barred.values()]
    out += _constraint_warnings(case)
    if ready is False:
        own = case.against_closed.get(case.measured[arms.RETRIEVED].ship) if arms.RETRIEVED in case.measured else None
        share = (
            ""
            if realised is None
            else f"R = {realised.value:.2f} (95 % interval {realised.low:.2f} to {realised.high:.2f}, n = {realised.n}): "
        )
        gain = (
            ""
            if own is None
            else f"our retriever gains {points(own.gain.value)} points (interval {points(own.gain.low)} to {points(own.gain.high)})"
        )
        # What was measured with our own passages may be served as it is.
        remedy = (
            "better retrieval would give more"
            if route == "rag+tune" and case.combined == arms.TUNE_RETRIEVED
            else "mend retrieval before serving"
        )
        out.append(Notice("retrieval_not_ready", f"{share}{gain}; {remedy}."))
    if route == "undecided" and case.gates and min(gate.gain.n for gate in case.gates.values()) < 100:
        out.append(Notice("few_items", _what_n_shows(case)))
    return out


def _unknown_arms(names: Sequence[str]) -> list[Notice]:
    """Arms that the method does not know, with the name that may have been meant."""
    out = []
    for name in (n for n in names if arms.family(n) not in arms.FAMILIES):
        near = get_close_matches(arms.family(name).strip().lower().replace("-", "_"), arms.FAMILIES, n=1, cutoff=0.8)
        hint = f"; did you mean {near[0]}?" if near else "."
        out.append(Notice("unknown_arm", f"{name} is no arm of the method: it is shown and enters no route{hint}"))
    return out


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


def _what_n_shows(case: Case) -> str:
    n = min(gate.gain.n for gate in case.gates.values())
    least = detectable_points(min(n, 2000))
    shows = f"a gain of {least} points or more" if least is not None else "no gain at all"
    return f"{n} items can show {shows} (exact McNemar, 5 % lost, 80 % power)."


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
    return (
        f"{c.arm} {says}{what} against {c.against}: {points(c.gain.value)} points "
        f"(95 % interval {points(c.gain.low)} to {points(c.gain.high)}; {counts}; p = {_p(c.p)}, Holm {_p(c.p_holm)})."
    )


def _retrieval_sentences(case: Case, found: Quantities, ready: bool | None) -> list[str]:
    out = []
    realised, gap = found["R"], found["F"]
    if ready is None:
        out.append("Our own retriever was not measured, so whether retrieval is ready is open.")
    elif realised is not None:
        verb = "is ready" if ready else "is not ready"
        out.append(
            f"Our retriever {verb}: it realises {realised.value:.0%} of what gold passages give "
            f"(95 % interval {realised.low:.0%} to {realised.high:.0%}, n = {realised.n}; ready from 70 %)."
        )
    elif arms.ORACLE not in case.measured:
        out.append("There is no oracle arm; the gain of our own retriever stands in for it.")
    if gap is not None and gap.value >= case.settings.delta:
        out.append(
            f"The base has {100 * gap.value:.1f} points of answers with the right content in the wrong shape (n = {gap.n})."
        )
    return out


def _constraint_warnings(case: Case) -> list[Notice]:
    limits, out = case.settings.constraints, []
    shipped = [
        arm for arm in case.scored if arms.family(arm) not in (arms.ORACLE, arms.ORACLE_FEW_SHOT, arms.WRONG_PASSAGE)
    ]
    if limits.latency_ms is not None and (unknown := [a for a in shipped if case.latency_p95_s(a) is None]):
        out.append(
            Notice("constraint_unchecked", f"latency_ms cannot be checked: no latency_s for {', '.join(unknown)}.")
        )
    if limits.usd_per_1k is not None and (unknown := [a for a in shipped if case.usd_per_1k(a) is None]):
        out.append(
            Notice("constraint_unchecked", f"usd_per_1k cannot be checked: no cost known for {', '.join(unknown)}.")
        )
    if case.all_barred:
        out.append(
            Notice(
                "constraints_contradict", "No measured arm, the base included, keeps the declared limits; see above."
            )
        )
    if case.settings.must_retrieve and case.rag_barred:
        out.append(
            Notice(
                "constraints_contradict",
                f"{', '.join(case.settings.must_retrieve)} asks for retrieval, but {case.barred[case.measured[arms.RETRIEVED].ship]}",
            )
        )
    return out


def _share(estimate: Estimate) -> str:
    return f"{estimate.value:.1%} (95 % interval {estimate.low:.1%} to {estimate.high:.1%}, n = {estimate.n})"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{np.format_float_scientific(value, precision=0, trim='-')}"
