"""How right, how careful and how calibrated the verdict is, on simulated use cases whose truth is known.

    python -m benchmarks.verdicts [--quick] [--seed 0] [--jobs 2]

Use cases come from benchmarks/simulation.py; benchmarks/trials.py decides each. Measured against the truth: accuracy,
false actions, power, regret, coverage and calibration, each with its interval, beside two baselines: "best mean wins"
and our own rule without Holm. Every table of 40 items or more is also asked in steps, as `advise` does: how many calls
that needs, and how its verdicts fare beside those of the full grid. Raw figures go to benchmarks/results/verdicts.json;
the last line on stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from advisor.spending import LEAST_ITEMS
from benchmarks.simulation import ACTIONS, KINDS, powered
from benchmarks.trials import CAUSES, Trial, right, trial
from core.stats import wilson

RESULTS = Path(__file__).parent / "results" / "verdicts.json"
SIZES = (8, 15, 30, 60, 100, 200, 400, 1000)


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


def over_sizes(values: Mapping[int, Sequence[float]], weights: Mapping[int, float]) -> dict[str, float]:
    """Weighted mean of the sizes' means, each size a stratum of its own (Cochran 1977, Sampling Techniques, 5.3)."""
    total = sum(weights[n] for n in values)
    shares = {n: weights[n] / total for n in values}
    value = sum(share * float(np.mean(values[n])) for n, share in shares.items())
    half = (
        1.96 * sum(share**2 * float(np.var(values[n], ddof=1)) / len(values[n]) for n, share in shares.items()) ** 0.5
    )
    return {"value": value, "low": value - half, "high": value + half, "n": sum(map(len, values.values()))}


def summary(mixed: list[Trial], null: list[Trial], power: dict[str, list[Trial]]) -> dict[str, Any]:
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
        "regret_by_cause_at_100": {
            # `not_shown` is what a perfect rule would have under the same floor of evidence.
            **{cause: mean(100 * t.causes[cause] for t in at_100) for cause in CAUSES},
            "by_true_route": {
                route: {
                    "share_of_trials": share(t.truth == route for t in at_100),
                    "ours": mean(100 * t.regret["ours"] for t in at_100 if t.truth == route),
                    "not_shown": mean(100 * t.causes["not_shown"] for t in at_100 if t.truth == route),
                }
                for route in sorted({t.truth for t in at_100})
            },
        },
        "calls_in_steps": {
            "all": {
                # As many use cases of each size: the calls of a size weigh by its items, its verdicts like any other's.
                "share_of_grid": over_sizes(
                    {n: [t.calls for t in by_n(mixed, n)] for n in sizes}, {n: n for n in sizes}
                ),
                **{
                    f"accuracy_{name}": over_sizes(
                        {n: [right(t, getattr(t, who)) for t in by_n(mixed, n)] for n in sizes}, dict.fromkeys(sizes, 1)
                    )
                    for name, who in (("full", "route"), ("in_steps", "steps"))
                },
            },
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


def causes_in_words(causes: dict[str, Any], regret: dict[str, Any]) -> str:
    """The regret at 100 items and its parts, a line each."""
    says = {
        "not_shown": "what a perfect rule would have, that ships only what is shown to gain over the base",
        "undecided": "undecided though an arm was shown to gain",
        "simpler_by_rule": "a lead under delta, left to the simpler remedy by the rule",
        "choice": "another of the shown arms was better",
    }
    lines = [f"regret at 100 items: {_interval(regret['ours'])} points, of which"]
    lines += [f"  {_interval(causes[cause])}  {text}" for cause, text in says.items()]
    lines += [
        f"  where {route} is right: {_interval(part['ours'])}, of it not shown {_interval(part['not_shown'])}"
        for route, part in causes["by_true_route"].items()
    ]
    return "\n".join(lines)


def _interval(found: dict[str, float]) -> str:
    return f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


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
    print(causes_in_words(found["regret_by_cause_at_100"], found["regret_points"]["100"]), file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
