"""How right, how careful and how calibrated the verdict is, on simulated use cases whose truth is known.

    python -m benchmarks.verdicts [--quick] [--seed 0] [--jobs 2]

Every item of a simulated use case fails for a reason (missing knowledge, missing
behaviour, both, or neither remedy helps); every arm mends some reasons and
reshuffles a few answers at random. So each arm's true rate is known, and with it
the true route: the rule read on true rates (`true_route`, written apart from the
advisor's code). Measured against it: accuracy, false actions, power, regret,
coverage and calibration, each with its interval, beside two baselines: "best mean
wins" and our own rule without Holm. Every table of 40 items or more is also asked in
steps, as `advise` does: how many calls that needs, and how its verdicts fare beside
those of the full grid. Raw figures go to benchmarks/results/verdicts.json;
the last line on stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np

from advisor.case import Case
from advisor.evidence import compare, rate
from advisor.findings import tested
from advisor.looks import Progress, schedule
from advisor.outcomes import ABSENT, CORRECT, WRONG, ArmOutcomes, OutcomeTable
from advisor.rule import ROUTES, DecisionSettings, choose
from advisor.spending import LEAST_ITEMS
from advisor.verdict import route_shares
from core.stats import wilson

RESULTS = Path(__file__).parent / "results" / "verdicts.json"
DELTA, TARGET = 0.05, 0.90
ARMS = ("closed", "prompt", "few_shot", "oracle", "retrieved", "tune", "tune_retrieved")
SHIPPED = {
    "base": "closed",
    "none": "closed",
    "undecided": "closed",
    "prompt": "prompt",
    "few-shot": "few_shot",
    "rag": "retrieved",
    "tune": "tune",
    "rag+tune": "tune_retrieved",
}
SIZES = (8, 15, 30, 60, 100, 200, 400, 1000)


@dataclass(frozen=True)
class World:
    """One use case: its reasons (rows) and each arm's chance to be right on them (columns, as ARMS)."""

    kind: str
    weights: np.ndarray
    right: np.ndarray
    harmful: frozenset[str] = frozenset()

    @property
    def rates(self) -> dict[str, float]:
        return dict(zip(ARMS, (self.weights @ self.right).tolist(), strict=True))


def world(kind: str, rng: np.random.Generator) -> World:
    """A use case of that kind, its sizes drawn at random."""
    noise = rng.uniform(0.02, 0.10)
    if kind in ("null", "none"):
        base = rng.uniform(0.02, 0.8)
        return _mixed(kind, {"known": base, "stuck": 1 - base}, {}, noise)
    if kind == "base":
        return _mixed(kind, {"known": 0.99, "stuck": 0.01}, {}, noise=rng.uniform(0.005, 0.05))
    gain = rng.uniform(0.10, 0.60)
    base = rng.uniform(0.02, 0.85 - gain)
    rest = 1 - base - gain
    part = rng.uniform(0.0, 0.5)
    if kind == "rag":
        realised = rng.uniform(0.5, 1.0)
        mends = {"knowledge": {"oracle": 1.0, "retrieved": realised, "tune_retrieved": realised}}
        return _mixed(kind, {"known": base, "knowledge": gain, "stuck": rest}, mends, noise)
    if kind == "tune":
        mends = {"behaviour": {"few_shot": part, "tune": 1.0, "tune_retrieved": 1.0}}
        return _mixed(kind, {"known": base, "behaviour": gain, "stuck": rest}, mends, noise)
    if kind == "few-shot":
        mends = {"behaviour": {"prompt": part, "few_shot": 1.0, "tune": 1.0, "tune_retrieved": 1.0}}
        return _mixed(kind, {"known": base, "behaviour": gain, "stuck": rest}, mends, noise)
    if kind == "prompt":
        every = dict.fromkeys(ARMS[1:], 1.0)
        return _mixed(kind, {"known": base, "form": gain, "stuck": rest}, {"form": every}, noise)
    if kind == "rag+tune":
        shares = rng.dirichlet((2, 2, 3)) * gain
        mends = {
            "knowledge": {"oracle": 1.0, "retrieved": 0.9, "tune_retrieved": 0.9},
            "behaviour": {"tune": 1.0, "tune_retrieved": 1.0},
            "both": {"tune_retrieved": 0.9},
        }
        weights = {"known": base, "knowledge": shares[0], "behaviour": shares[1], "both": shares[2], "stuck": rest}
        return _mixed(kind, weights, mends, noise)
    if kind == "harm":
        # Tuning mends and breaks alike: a few points better on the mean, a fifth of all items newly wrong.
        broken, base = rng.uniform(0.2, 0.3), rng.uniform(0.45, 0.6)
        mended = broken + rng.uniform(0.0, 0.08)
        weights = {"known": base - broken, "fragile": broken, "behaviour": mended, "stuck": 1 - base - mended}
        right = {"fragile": {"tune": 0.0, "tune_retrieved": 0.0}, "behaviour": {"tune": 1.0, "tune_retrieved": 1.0}}
        return _mixed(
            kind, weights, right, noise, known=("known", "fragile"), harmful=frozenset({"tune", "tune_retrieved"})
        )
    raise ValueError(kind)


def _mixed(
    kind: str,
    weights: dict[str, float],
    mends: dict[str, dict[str, float]],
    noise: float,
    known: tuple[str, ...] = ("known",),
    harmful: frozenset[str] = frozenset(),
) -> World:
    rows = []
    for reason in weights:
        default = 1.0 if reason in known else 0.0
        chances = np.array([mends.get(reason, {}).get(arm, default) for arm in ARMS])
        rows.append(noise + (1 - 2 * noise) * chances)
    share = np.array(list(weights.values()))
    return World(kind, share / share.sum(), np.array(rows), harmful)


def true_route(rates: dict[str, float], harmful: Iterable[str] = ()) -> str:
    """The rule of decision.md read on true rates."""
    gone = set(harmful)
    base_route, base = "base", rates["closed"]
    for route, arm in (("prompt", "prompt"), ("few-shot", "few_shot")):
        if arm not in gone and rates[arm] - base >= DELTA:
            base_route, base = route, rates[arm]
    prompted = max(rates["closed"], rates["prompt"], rates["few_shot"])
    rivals = max(prompted, rates["retrieved"], rates["tune"])
    if "tune_retrieved" not in gone and rates["tune_retrieved"] - rivals >= DELTA:
        return "rag+tune"
    rag = rates["oracle"] - base >= DELTA or rates["retrieved"] - base >= DELTA
    if base_route != "base" and rates["retrieved"] < base:
        rag = False
    tune = "tune" not in gone and rates["tune"] - prompted >= DELTA
    if rag and (not tune or rates["retrieved"] >= rates["tune"]):
        return "rag"
    if tune:
        return "tune"
    if base_route != "base":
        return base_route
    return "base" if rates["closed"] >= TARGET else "none"


def sample(truth: World, n: int, rng: np.random.Generator, cluster_size: int) -> OutcomeTable:
    """An eval set of n items. Items of a cluster share their reason every other time."""
    clusters = None
    if cluster_size > 1:
        clusters = np.arange(n) // cluster_size
        own = rng.choice(len(truth.weights), size=n, p=truth.weights)
        shared = rng.choice(len(truth.weights), size=clusters[-1] + 1, p=truth.weights)[clusters]
        reasons = np.where(rng.random(n) < 0.5, shared, own)
    else:
        reasons = rng.choice(len(truth.weights), size=n, p=truth.weights)
    right = rng.random((n, len(ARMS))) < truth.right[reasons]
    nothing = np.full(n, np.nan)
    arms = {
        arm: ArmOutcomes(
            np.where(right[:, i], CORRECT, WRONG).astype(np.int8),
            right[:, i].astype(float),
            right[:, i].astype(float),
            nothing,
            nothing,
            nothing,
        )
        for i, arm in enumerate(ARMS)
    }
    return OutcomeTable(tuple(f"{i:05d}" for i in range(n)), arms, {}, clusters, False, "accuracy", False)


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
        covered,
        base.low <= rates["closed"] <= base.high,
        steps.route,
        steps.calls,
        _covers(steps, rates),
    )


def _covers(steps: Stepped, rates: dict[str, float]) -> bool | None:
    if steps.route not in ACTIONS:
        return None
    arm = SHIPPED[steps.route]
    sides = Case(steps.table, DecisionSettings()).measured
    if arm not in sides:
        return None
    found = compare(steps.table, sides[arm], sides["closed"])
    return None if found is None else found.gain.low <= rates[arm] - rates["closed"] <= found.gain.high


def powered(kind: str, gain: float) -> World:
    """A true gain with 5 % of the items lost: by retrieval (oracle, retrieved, both) or by tuning (tune, both)."""
    mends = ("oracle", "retrieved", "tune_retrieved") if kind == "rag" else ("tune", "tune_retrieved")
    weights = {"known": 0.30, "lost": 0.05, "gained": gain + 0.05, "stuck": 0.60 - gain}
    right = {"lost": dict.fromkeys(mends, 0.0), "gained": dict.fromkeys(mends, 1.0)}
    return _mixed(kind, weights, right, noise=0.0, known=("known", "lost"))


ACTIONS = {"prompt", "few-shot", "rag", "tune", "rag+tune"}
KINDS = ("rag", "tune", "few-shot", "prompt", "rag+tune", "none", "base", "harm")


def _run(job: tuple[str, str, float, int, int, int, int]) -> list[Trial]:
    group, kind, gain, n, cluster_size, repeats, seed = job
    fixed = powered(kind, gain) if group == "power" else None
    key = (seed, hash_of(group, kind), round(1000 * gain), n, cluster_size)
    return [trial(kind, n, cluster_size, (*key, i), fixed) for i in range(repeats)]


def hash_of(*words: str) -> int:
    """A number from words that is the same in every process."""
    return int.from_bytes("/".join(words).encode()[-7:], "big")


def share(hits: Iterable[bool]) -> dict[str, float]:
    values = list(hits)
    return asdict(wilson(sum(values), len(values)))


def mean(values: Iterable[float]) -> dict[str, float]:
    array = np.array(list(values), dtype=float)
    half = 1.96 * array.std(ddof=1) / np.sqrt(array.size)
    return {
        "value": float(array.mean()),
        "low": float(array.mean() - half),
        "high": float(array.mean() + half),
        "n": int(array.size),
    }


def right(trial: Trial, route: str) -> bool:
    """In a harm case with nothing to gain, leaving it open is as right as saying none."""
    return route == trial.truth or (trial.kind == "harm" and trial.truth == "none" and route == "undecided")


def summary(mixed: list[Trial], null: list[Trial], power: dict[str, list[Trial]]) -> dict[str, object]:
    at_100 = [t for t in mixed if t.n == 100]

    def by_n(trials: list[Trial], n: int) -> list[Trial]:
        return [t for t in trials if t.n == n]

    sizes = sorted({t.n for t in mixed})
    return {
        "accuracy": {
            str(n): {
                "ours": share(right(t, t.route) for t in by_n(mixed, n)),
                "ours_when_decided": share(right(t, t.route) for t in by_n(mixed, n) if t.route != "undecided"),
                "undecided": share(t.route == "undecided" for t in by_n(mixed, n)),
                "in_steps": share(right(t, t.steps) for t in by_n(mixed, n)),
                "without_holm": share(right(t, t.plain) for t in by_n(mixed, n)),
                "best_mean": share(right(t, t.mean) for t in by_n(mixed, n)),
            }
            for n in sizes
        },
        "accuracy_by_kind_at_100": {k: share(right(t, t.route) for t in at_100 if t.kind == k) for k in KINDS},
        "false_action": {
            label: {
                "ours": share(t.route in ACTIONS for t in chosen),
                "in_steps": share(t.steps in ACTIONS for t in chosen),
                "without_holm": share(t.plain in ACTIONS for t in chosen),
                "best_mean": share(t.mean in ACTIONS for t in chosen),
            }
            for label, chosen in [
                *((str(n), [t for t in by_n(null, n) if not t.clustered]) for n in sizes),
                *((f"{n}_clustered", [t for t in by_n(null, n) if t.clustered]) for n in sizes),
                ("30_to_200", [t for t in null if 30 <= t.n <= 200]),
            ]
            if chosen
        },
        "power_at_100": {
            name: {
                "acted": share(t.route in ACTIONS for t in trials),
                "right_route": share(t.route == t.truth for t in trials),
                "in_steps": share(t.steps in ACTIONS for t in trials),
                "without_holm": share(t.plain in ACTIONS for t in trials),
            }
            for name, trials in power.items()
        },
        "regret_points": {
            label: {who: mean(100 * t.regret[who] for t in chosen) for who in ("ours", "steps", "plain", "mean")}
            for label, chosen in [
                *((str(n), by_n(mixed, n)) for n in sizes),
                ("100_alone", [t for t in at_100 if not t.clustered]),
                ("100_clustered", [t for t in at_100 if t.clustered]),
                ("100_decided", [t for t in at_100 if t.route != "undecided"]),
            ]
        },
        "calls_in_steps": {
            **{
                str(n): {
                    "share_of_grid": mean(t.calls for t in by_n(mixed, n)),
                    "same_verdict": share(t.steps == t.route for t in by_n(mixed, n)),
                    **{kind: mean(t.calls for t in by_n(mixed, n) if t.kind == kind) for kind in KINDS},
                }
                for n in sizes
                if n >= LEAST_ITEMS
            },
        },
        "coverage": {
            "gain_in_steps": share(
                t.covered_steps for t in mixed if t.covered_steps is not None and t.n >= LEAST_ITEMS
            ),
            "gain_alone": share(c for t in mixed if not t.clustered and t.n >= 30 for c in t.covered),
            "gain_alone_under_30": share(c for t in mixed if not t.clustered and t.n < 30 for c in t.covered),
            "gain_clustered": share(c for t in mixed if t.clustered and t.n >= 60 for c in t.covered),
            "gain_clustered_under_60": share(c for t in mixed if t.clustered and t.n < 60 for c in t.covered),
            "rate_alone": share(t.covered_rate for t in mixed if not t.clustered and t.n >= 30),
            "rate_clustered": share(t.covered_rate for t in mixed if t.clustered and t.n >= 60),
        },
        "brier": {
            "all": mean((t.confidence - right(t, t.leading)) ** 2 for t in mixed),
            "decided": mean((t.confidence - right(t, t.route)) ** 2 for t in mixed if t.route != "undecided"),
            **{str(n): mean((t.confidence - right(t, t.leading)) ** 2 for t in by_n(mixed, n)) for n in sizes},
        },
        "reliability": reliability(mixed),
    }


def reliability(trials: list[Trial]) -> list[dict[str, float]]:
    """Said confidence against how often it was right, in ten bins."""
    said = np.array([t.confidence for t in trials])
    was = np.array([right(t, t.leading) for t in trials])
    bins = np.clip((said * 10).astype(int), 0, 9)
    return [
        {"said": float(said[bins == b].mean()), "was": float(was[bins == b].mean()), "n": int((bins == b).sum())}
        for b in range(10)
        if (bins == b).any()
    ]


def jobs_for(quick: bool, seed: int) -> list[tuple[str, str, float, int, int, int, int]]:
    sizes = (15, 100, 400) if quick else SIZES
    mixed, null, power = (10, 60, 100) if quick else (40, 120, 500)
    # The targets are set at 100 items, so that size gets more.
    more = {} if quick else {100: 3}
    jobs = [
        ("mixed", kind, 0.0, n, size, more.get(n, 1) * mixed // 2, seed)
        for kind in KINDS
        for n in sizes
        for size in (1, 4)
    ]
    jobs += [("null", "null", 0.0, n, size, more.get(n, 1) * null, seed) for n in sizes for size in (1, 4)]
    jobs += [("power", kind, gain, 100, 1, power, seed) for kind in ("rag", "tune") for gain in (0.15, 0.20)]
    return jobs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer sizes and repeats: under a minute on 2 cores")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    start = time.perf_counter()
    jobs = jobs_for(options.quick, options.seed)
    mixed: list[Trial] = []
    null: list[Trial] = []
    power: dict[str, list[Trial]] = {}
    with ProcessPoolExecutor(options.jobs) as pool:
        for done, (job, trials) in enumerate(zip(jobs, pool.map(_run, jobs), strict=True), start=1):
            print(f"\r{done}/{len(jobs)} settings", end="", file=sys.stderr, flush=True)
            if job[0] == "power":
                power[f"{job[1]}+{round(100 * job[2])}"] = trials
            else:
                (mixed if job[0] == "mixed" else null).extend(trials)
    print(file=sys.stderr)
    found = {
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
        "quick": options.quick,
        "seed": options.seed,
        "trials": len(mixed) + len(null) + sum(map(len, power.values())),
        "wall_s": round(time.perf_counter() - start, 1),
        **summary(mixed, null, power),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
