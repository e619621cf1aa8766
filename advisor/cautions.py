"""The warnings that go with a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from advisor import arm_names as arms
from advisor.case import Case
from advisor.evidence import Measure, at_least, compare, rate
from advisor.figures import points
from advisor.quantities import READY_SHARE, both_family, form_gap
from advisor.reasons import Notice, what_n_shows
from advisor.rule import Route
from core.stats import Estimate


def warnings(
    case: Case, route: Route, ready: bool | None, realised: Estimate | None, shipped: str | None
) -> list[Notice]:
    """What to know beside the verdict; `shipped` is the arm that the route would ship."""
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
    if not table.paired:
        text = "Only totals are known: the tests are unpaired, and weaker than on the same items row by row."
        out.append(Notice("unpaired", text))
    elif not case.settings.stepwise:
        lacking = {arm: int((table.arms[arm].outcome == 0).sum()) for arm in table.names}
        short = [f"{arm} ({n})" for arm, n in lacking.items() if n]
        if short:
            text = f"Of {len(table.items)} items some have no row in {', '.join(short)}; arms are compared on the items they share."
            out.append(Notice("missing_items", text))
    if case.closed_arm is None:
        return out
    out += _unknown_arms(table.names)
    out += [Notice("harm", text) for text in [*case.harmful.values(), *case.follows_junk.values()]]
    out += [Notice("constraint", text) for text in case.barred.values()]
    out += _constraint_warnings(case, route)
    if ready is False:
        out.append(Notice("retrieval_not_ready", _not_ready(case, route, realised)))
    if route == "rag" and (spoilt := _shape(case)) is not None:
        out.append(Notice("form_gap", spoilt))
    if shipped is not None and (breaks := _breaks(case, shipped)) is not None:
        out.append(Notice("breaks_items", breaks))
    if route == "undecided" and case.gates and min(gate.gain.n for gate in case.gates.values()) < 100:
        out.append(Notice("few_items", what_n_shows(case)))
    return out


def _not_ready(case: Case, route: Route, realised: Estimate | None) -> str:
    share = (
        ""
        if realised is None
        else f"R = {realised.value:.2f} (95 % interval {realised.low:.2f} to {realised.high:.2f}, n = {realised.n}): "
    )
    measure: Measure = "content" if case.table.content_given else "correct"
    own = case.measured.get(arms.RETRIEVED)
    found = None if own is None else compare(case.table, own, case.closed, measure)
    what = " in content" if measure == "content" else ""
    gain = (
        ""
        if found is None
        else f"our retriever gains {points(found.gain.value)} points{what} "
        f"(interval {points(found.gain.low)} to {points(found.gain.high)}); "
    )
    if route == "rag+tune" and case.combined == arms.TUNE_RETRIEVED:
        # What was measured with our own passages may be served as it is.
        return f"{share}{gain}better retrieval would give more."
    if realised is not None and at_least(realised.value, READY_SHARE) and (why := case.left_out(arms.RETRIEVED)):
        return f"{share}{gain}it finds enough, but is {why}; mend that before serving."
    return f"{share}{gain}mend retrieval before serving."


def _shape(case: Case) -> str | None:
    """Where passages bring the right content in the wrong shape: how much, and what mends it as far as is known."""
    if case.rag_arm is None:
        return None
    arm = case.measured[case.rag_arm]
    gap = form_gap(case.table, arm)
    if gap is None or gap.low <= 0 or not at_least(gap.value, case.settings.delta):
        return None
    mended = [
        f"{case.measured[family].name} gets {rate(case.table, case.measured[family].ship).value:.1%} right"
        for family in (arms.ORACLE_FEW_SHOT, both_family(case.measured))
        if family not in (None, case.rag_arm) and case.gains((family, "correct"))
    ]
    how = f"; {', '.join(mended)}" if mended else "; an answer format, demonstrations or tuning has to mend that"
    return f"{arm.name} has {100 * gap.value:.1f} points of answers with the right content in the wrong shape (n = {gap.n}){how}."


def _breaks(case: Case, shipped: str) -> str | None:
    """What the route's own arm breaks, though it mends enough to be no harm (Case.harmful)."""
    broken = case.harms.get(shipped)
    if broken is None or broken.low <= case.settings.harm_allowed or shipped in case.harmful:
        return None
    return (
        f"{shipped} breaks {broken.value:.0%} of the items (95 % interval {broken.low:.0%} to {broken.high:.0%}, n = {broken.n}) "
        f"and mends {case.against_closed[shipped].gained}, at least twice as many: no harm on the whole, "
        "but look at the broken ones before serving."
    )


def _unknown_arms(names: Sequence[str]) -> list[Notice]:
    """Arms that the method does not know, with the name that may have been meant."""
    out = []
    for name in (n for n in names if arms.family(n) not in arms.FAMILIES):
        near = get_close_matches(arms.family(name).strip().lower().replace("-", "_"), arms.FAMILIES, n=1, cutoff=0.8)
        hint = f"; did you mean {near[0]}?" if near else "."
        out.append(Notice("unknown_arm", f"{name} is no arm of the method: it is shown and enters no route{hint}"))
    return out


def _constraint_warnings(case: Case, route: Route) -> list[Notice]:
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
    if route == "undecided" and case.settings.must_retrieve and case.rag_barred:
        out.append(
            Notice(
                "constraints_contradict",
                f"{', '.join(case.settings.must_retrieve)} asks for retrieval, but {case.barred[case.measured[arms.RETRIEVED].ship]}",
            )
        )
    return out
