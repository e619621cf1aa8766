"""One simulated eval set, decided in several ways: by the advisor, in steps, without Holm, by the best mean."""

from __future__ import annotations

from dataclasses import dataclass, replace
from unittest.mock import patch

import numpy as np

from advisor.case import Case
from advisor.evidence import compare, rate
from advisor.findings import tested
from advisor.looks import Progress, schedule
from advisor.outcomes import ABSENT, ArmOutcomes, OutcomeTable
from advisor.rule import ROUTES, DecisionSettings, choose
from advisor.spending import LEAST_ITEMS
from advisor.verdict import route_shares
from benchmarks.simulation import ACTIONS, ARMS, DELTA, SHIPPED, TARGET, World, sample, true_route, world


def ours(table: OutcomeTable) -> tuple[str, str, float]:
    """Route, leading route and confidence by the advisor."""
    case = Case(table, DecisionSettings(delta=DELTA, target=TARGET))
    route = ROUTES[int(choose(tested(case), case.settings, None)[0])]
    shares = route_shares(case)
    leading = route if route != "undecided" else max((r for r in ROUTES if r != "undecided"), key=lambda r: shares[r])
    return route, leading, shares[leading]


def without_holm(table: OutcomeTable) -> str:
    with patch("advisor.case.adjust", list), patch("advisor.case.adjust_beside", lambda family, extra: extra):
        case = Case(table, DecisionSettings(delta=DELTA, target=TARGET))
        return ROUTES[int(choose(tested(case), case.settings, None)[0])]


def best_mean(table: OutcomeTable) -> str:
    """What the field does: the highest mean wins, the cheapest of equals."""
    means = {
        route: table.arms[arm].correct.mean() for route, arm in SHIPPED.items() if route not in ("none", "undecided")
    }
    return max(means, key=lambda route: means[route])


@dataclass(frozen=True)
class Stepped:
    """The same eval set asked in steps."""

    route: str
    calls: float
    """Share of the full grid's calls."""
    table: OutcomeTable


def stepped(table: OutcomeTable, rng: np.random.Generator) -> Stepped:
    """Replay of `advise` on a table that is known in full: only what is asked is seen."""
    settings = DecisionSettings(delta=DELTA, target=TARGET)
    order = rng.permutation(len(table.items))
    progress = Progress(len(order), ARMS)
    steps = schedule(progress, lambda: settings)
    step = next(steps)
    asked: dict[str, int] = {}
    while True:
        asked |= {arm: max(step.items, asked.get(arm, 0)) for arm in step.arms}
        seen = replace(table, arms={arm: _first(table.arms[arm], order[:count]) for arm, count in asked.items()})
        try:
            step = steps.send(seen)
        except StopIteration:
            break
    case = Case(seen, replace(settings, alpha=progress.alpha))
    return Stepped(
        ROUTES[int(choose(tested(case), case.settings, None)[0])], progress.calls / progress.full_calls, seen
    )


def _first(arm: ArmOutcomes, rows: np.ndarray) -> ArmOutcomes:
    outcome, correct = np.full_like(arm.outcome, ABSENT), np.full_like(arm.correct, np.nan)
    outcome[rows], correct[rows] = arm.outcome[rows], arm.correct[rows]
    return replace(arm, outcome=outcome, correct=correct, content=correct)


@dataclass
class Trial:
    kind: str
    n: int
    clustered: bool
    truth: str
    route: str
    leading: str
    confidence: float
    plain: str
    mean: str
    regret: dict[str, float]
    causes: dict[str, float]
    """The regret of `ours`, by cause (`regret_by_cause`); they add up to it."""
    covered: list[bool]
    covered_rate: bool
    steps: str
    calls: float
    covered_steps: bool | None
    """Whether the interval of the gain that a stepped verdict acts on holds the truth; None without action."""


def trial(
    kind: str, n: int, cluster_size: int, seed: tuple[int, ...], fixed: World | None = None, in_steps: bool = True
) -> Trial:
    rng = np.random.default_rng(seed)
    truth = fixed or world(kind, rng)
    rates = truth.rates
    table = sample(truth, n, rng, cluster_size)
    route, leading, confidence = ours(table)
    steps = stepped(table, rng) if in_steps and n >= LEAST_ITEMS else Stepped(route, 1.0, table)
    chosen = {"ours": route, "plain": without_holm(table), "mean": best_mean(table), "steps": steps.route}
    # An arm that breaks a fifth of the items is not what a team would call the best arm.
    best = max(rates[arm] for arm in set(SHIPPED.values()) - truth.harmful)
    covered = []
    case = Case(table, DecisionSettings())
    for arm in ("few_shot", "oracle", "tune"):
        found = compare(table, case.measured[arm], case.measured["closed"])
        assert found is not None
        covered.append(found.gain.low <= rates[arm] - rates["closed"] <= found.gain.high)
    base = rate(table, "closed")
    return Trial(
        kind,
        n,
        cluster_size > 1,
        true_route(rates, truth.harmful),
        route,
        leading,
        confidence,
        chosen["plain"],
        chosen["mean"],
        {who: max(0.0, best - rates[SHIPPED[what]]) for who, what in chosen.items()},
        regret_by_cause(truth, case, route),
        covered,
        base.low <= rates["closed"] <= base.high,
        steps.route,
        steps.calls,
        _covers(steps, rates),
    )


CAUSES = ("not_shown", "undecided", "simpler_by_rule", "choice")


def regret_by_cause(truth: World, case: Case, route: str) -> dict[str, float]:
    """Where the regret of `route` comes from; the parts add up to it.

    `not_shown`: the best of the arms whose gain over the base is shown lies behind the best arm of all (the base itself
    where none is shown). No rule with this floor of evidence can do better, so it is the regret of a perfect one.
    The rest: `undecided` although an arm was shown; `simpler_by_rule`, the true route itself ships less than the best
    (a lead under delta is not worth the dearer remedy); `choice`, another of the shown arms would have been better.
    A rule that ships an arm whose own gain is not shown (our retriever, by the oracle's) and is right in that gets
    its luck as a negative `choice`.
    """
    rates = truth.rates
    arms = set(SHIPPED.values()) - truth.harmful
    best = max(rates[arm] for arm in arms)
    shown = max(rates[arm] for arm in arms if arm == "closed" or case.gains((arm, "correct")))
    total = max(0.0, best - rates[SHIPPED[route]])
    found = dict.fromkeys(CAUSES, 0.0) | {"not_shown": best - shown}
    left = total - found["not_shown"]
    if route == "undecided":
        return found | {"undecided": left}
    by_rule = best - rates[SHIPPED[true_route(rates, truth.harmful)]]
    found["simpler_by_rule"] = min(max(by_rule - found["not_shown"], 0.0), max(left, 0.0))
    return found | {"choice": left - found["simpler_by_rule"]}


def _covers(steps: Stepped, rates: dict[str, float]) -> bool | None:
    if steps.route not in ACTIONS:
        return None
    arm = SHIPPED[steps.route]
    sides = Case(steps.table, DecisionSettings()).measured
    if arm not in sides:
        return None
    found = compare(steps.table, sides[arm], sides["closed"])
    return None if found is None else found.gain.low <= rates[arm] - rates["closed"] <= found.gain.high


def right(trial: Trial, route: str) -> bool:
    """In a harm case with nothing to gain, leaving it open is as right as saying none."""
    return route == trial.truth or (trial.kind == "harm" and trial.truth == "none" and route == "undecided")
