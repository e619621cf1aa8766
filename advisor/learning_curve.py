"""Would more training rows help? Pilots on N/4, N/2 and N rows, two seeds on the smallest, one doubling extrapolated.

decision.md: extrapolate one doubling only, with its interval by bootstrap; 50 rows without any gain: stop and say so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advisor.arm_names import tuning_method
from advisor.arms import ArmRun, Bench
from advisor.budget import Cost
from advisor.materials import Materials
from advisor.needs import Need
from advisor.pilots import HEAD_ROWS, PILOT_ROWS, Pilot, head_pilot, kept, lora_pilot, most_seconds
from advisor.purse import Purse
from advisor.reasons import Notice
from advisor.scoring import cells
from core.engines.base import Engine
from core.memory import give_back
from core.stats import Estimate, paired_bootstrap, share

Floats = NDArray[np.float64]

STOP_ROWS = 50
LEAST_ROWS = 40
"""Training rows below which a quarter of them is no point of a curve."""
DRAWS = 2000


@dataclass(frozen=True)
class Point:
    rows: int
    seed: int
    right: Floats
    """1 or 0 (or the score) for each item; NaN where the call failed."""


@dataclass(frozen=True)
class Curve:
    arm: str
    points: tuple[Point, ...]
    closed: Floats
    """The base on the same items."""
    clusters: NDArray[np.int64] | None
    stopped: bool
    """The pilot on `STOP_ROWS` rows gained nothing, so no larger one was trained for the curve."""
    unpaid: int = 0
    """Pilots that the budget did not hold."""

    @property
    def top(self) -> int:
        return max(point.rows for point in self.points)

    def doubling(self) -> Estimate | None:
        """Rate at twice the rows; None unless three sizes were measured."""
        return extrapolate(self.points, self.clusters)

    def at_50(self) -> Estimate | None:
        """Gain over the base of the pilot on 50 rows; None where none was trained."""
        small = [point for point in self.points if point.rows == STOP_ROWS]
        if not small:
            return None
        known = ~np.isnan(small[0].right) & ~np.isnan(self.closed)
        if not known.any():
            return None
        clusters = None if self.clusters is None else self.clusters[known]
        return paired_bootstrap(small[0].right[known], self.closed[known], clusters)

    def document(self) -> dict[str, Any]:
        """One entry of report.json's `learning_curve`."""
        points = []
        for point in sorted(self.points, key=lambda p: (p.rows, p.seed)):
            found = _rate(point.right)
            points.append({"rows": point.rows, "seed": point.seed} | _limits(found))
        gain, twice = self.at_50(), self.doubling()
        return {
            "arm": self.arm,
            "method": tuning_method(self.arm),
            "n": len(self.closed),
            "points": points,
            "closed": None if (base := _rate(self.closed)) is None else base.value,
            "doubling": None if twice is None else {"rows": 2 * self.top, **_limits(twice)},
            "stop_rule": None
            if gain is None
            else {"rows": STOP_ROWS, "gain": gain.value, "low": gain.low, "high": gain.high, "stop": self.no_gain()},
            "text": self.text(),
        }

    def no_gain(self) -> bool:
        gain = self.at_50()
        return gain is not None and gain.value <= 0

    def text(self) -> str:
        gain, twice = self.at_50(), self.doubling()
        if self.stopped and gain is not None:
            return (
                f"{self.arm}: {STOP_ROWS} training rows gain nothing ({100 * gain.value:+.1f} points, interval "
                f"{100 * gain.low:+.1f} to {100 * gain.high:+.1f}); no larger pilot was trained for the curve."
            )
        now = _rate(np.concatenate([p.right for p in self.points if p.rows == self.top]))
        if self.unpaid and twice is None:
            return (
                f"{self.arm}: no learning curve, for the budget did not hold {self.unpaid} of the pilots that it takes."
            )
        if twice is None or now is None:
            return f"{self.arm}: too few training rows for a curve."
        return (
            f"{self.arm}: {now.value:.1%} with {self.top} rows; {2 * self.top} would give about {twice.value:.1%} "
            f"(interval {twice.low:.1%} to {twice.high:.1%}), were the curve to go on as it did."
        )

    def need(self, delta: float) -> Need | None:
        """More rows, where one doubling is likely to gain delta."""
        now, twice = _rate(np.concatenate([p.right for p in self.points if p.rows == self.top])), self.doubling()
        if now is None or twice is None or self.stopped or twice.value - now.value < delta or twice.low <= now.value:
            return None
        return Need("training_rows", 2 * self.top, self.text())

    def notice(self) -> Notice | None:
        return Notice("no_gain_at_50_rows", self.text()) if self.stopped else None


def extrapolate(points: Sequence[Point], clusters: NDArray[np.int64] | None) -> Estimate | None:
    """The rate at twice the most rows, by a line through the last three sizes over log2(rows), within 0 and 1.

    The interval is a bootstrap over items (clusters whole); the spread between two seeds of the smallest size is
    added to each size's rate. A line overstates what comes once a curve bends, so it is one doubling and no more.
    """
    sizes = sorted({point.rows for point in points})[-3:]
    if len(sizes) < 3:
        return None
    by_size = np.stack([np.nanmean([p.right for p in points if p.rows == size], axis=0) for size in sizes])
    known = ~np.isnan(by_size).any(axis=0)
    n = int(known.sum())
    if n == 0:
        return None
    by_size = by_size[:, known]
    units = np.arange(n) if clusters is None else np.unique(clusters[known], return_inverse=True)[1]
    count = int(units.max()) + 1
    rng = np.random.default_rng(0)
    weights = rng.multinomial(count, np.full(count, 1 / count), size=DRAWS)[:, units].astype(float)
    rates = weights @ by_size.T / np.maximum(weights.sum(axis=1, keepdims=True), 1)
    rates += rng.normal(0, _seed_spread(points), rates.shape)
    x = np.log2(np.array(sizes, float))
    ahead = np.clip(_line(x, rates, x[-1] + 1), 0, 1)
    value = float(np.clip(_line(x, by_size.mean(axis=1)[None], x[-1] + 1)[0], 0, 1))
    low, high = np.quantile(ahead, [0.025, 0.975])
    return Estimate(value, min(float(low), value), max(float(high), value), n)


def pilots_of(method: str, train_rows: int) -> list[tuple[int, int]]:
    """Rows, and what is added to the seed, of each pilot that a curve takes beside the arm's own, small ones first.

    None below `LEAST_ROWS` training rows.
    """
    most = min(train_rows, HEAD_ROWS if method == "head" else PILOT_ROWS)
    if most < LEAST_ROWS:
        return []
    smallest = most // 4
    wanted = [(smallest, 0), (smallest, 1), (most // 2, 0)]
    if most >= 2 * STOP_ROWS and smallest != STOP_ROWS:
        wanted.append((STOP_ROWS, 0))
    return sorted(wanted)


def learning_curve(
    bench: Bench,
    materials: Materials,
    arm: ArmRun,
    closed: Mapping[str, float],
    purse: Purse,
    stop_early: bool,
) -> Curve | None:
    """The curve of a tuned arm on the items it was asked; None below `LEAST_ROWS` training rows.

    Args:
        closed: item -> the base's score.
        purse: a pilot that its budget does not hold is not trained, nor any larger one.
        stop_early: train nothing larger once 50 rows gain nothing (a LoRA pilot costs minutes, a head seconds).
    """
    method = tuning_method(arm.name)
    wanted = pilots_of(method, len(bench.train))
    if not wanted:
        return None
    most = min(len(bench.train), HEAD_ROWS if method == "head" else PILOT_ROWS)
    base = np.array([closed.get(row.id, math.nan) for row in arm.rows])
    clusters = _clusters(arm)
    points = [Point(most, bench.settings.seed, _right(bench, materials, arm, arm.results))]
    stopped, unpaid = False, 0
    for done, (rows, shift) in enumerate(wanted):
        point = _measure(bench, materials, arm, method, rows, bench.settings.seed + shift, purse)
        if point is None:
            unpaid = len(wanted) - done
            purse.budget.leave_out(f"the learning curve of {arm.name}")
            break
        points.append(point)
        so_far = Curve(arm.name, tuple(points), base, clusters, False)
        if stop_early and rows == STOP_ROWS and so_far.no_gain():
            stopped = True
            break
    return Curve(arm.name, tuple(points), base, clusters, stopped, unpaid)


def _measure(
    bench: Bench, materials: Materials, arm: ArmRun, method: str, rows: int, seed: int, purse: Purse
) -> Point | None:
    """A pilot on `rows` rows, on the arm's items; None where the budget does not hold its training and its calls."""
    trained = kept(bench.folder, bench.settings, bench.train, method, rows, seed)
    if not purse.budget.holds(_most(bench, arm, method, rows, trained, purse)):
        return None
    pilot = _pilot(bench, method, rows, seed)
    if trained is None:
        purse.budget.spend_seconds(pilot.train_s)
    engine: Engine = bench.engine
    requests, identity = arm.requests, _identity(bench, method, pilot.identity)
    if method == "head":
        from tuning.head_engine import load_head

        engine = load_head(pilot.folder, bench.workspace.models)
    else:
        requests = tuple(replace(request, adapter=str(pilot.folder)) for request in requests)
    new = [i for i, request in enumerate(requests) if purse.open(engine, identity, request)]
    try:
        answers = bench.cache.ask(f"{arm.name} on {rows} rows", engine, identity, requests)
    finally:
        if engine is not bench.engine:
            engine.close()
        give_back()
    if new:
        results = [answers.results[i] for i in new]
        purse.budget.spend(purse.budget.base, [requests[i] for i in new], results, answers.new_s)
    return Point(rows, seed, _right(bench, materials, arm, answers.results))


def _most(bench: Bench, arm: ArmRun, method: str, rows: int, trained: str | None, purse: Purse) -> Cost:
    """The most that training a pilot, its calls and their judging cost; `trained` is the identity of one that is there."""
    seconds = 0.0 if trained is not None else most_seconds(method, rows)
    cost = Cost(purse.budget.base.seconds_usd(seconds))
    # A pilot that is still to be trained has answered nothing, so no answer of it is known.
    identity = _identity(bench, method, trained or "untrained")
    engine = None if method == "head" else bench.engine
    for item, request in zip(arm.rows, arm.requests, strict=True):
        cost = cost.plus(purse.needs(engine, identity, request, item))
    return cost


def _identity(bench: Bench, method: str, pilot: str) -> str:
    return pilot if method == "head" else f"{bench.model_identity}+{pilot}"


def _pilot(bench: Bench, method: str, rows: int, seed: int) -> Pilot:
    if method == "head":
        return head_pilot(bench.folder, bench.settings, bench.workspace, bench.train, most=rows, seed=seed)
    return lora_pilot(bench.folder, bench.settings, bench.workspace, bench.train, "plain", most=rows, seed=seed)


def _right(bench: Bench, materials: Materials, arm: ArmRun, results: Sequence[Any]) -> Floats:
    found = cells(arm.rows, results, materials.scorer, materials.form, bench.settings.refusals)
    return np.array([score_of(cell) for cell in found])


def score_of(cell: Mapping[str, Any]) -> float:
    """1 or 0, the score of a graded answer, NaN of a failed call."""
    if cell["outcome"] == "error":
        return math.nan
    return float(cell["score"]) if cell["outcome"] is None else float(cell["outcome"] == "correct")


def _clusters(arm: ArmRun) -> NDArray[np.int64] | None:
    names = [row.cluster or f"item {row.id}" for row in arm.rows]
    codes = {name: code for code, name in enumerate(sorted(set(names)))}
    return None if len(codes) == len(names) else np.array([codes[name] for name in names], dtype=np.int64)


def _seed_spread(points: Sequence[Point]) -> float:
    """Standard deviation of a rate between seeds, from the smallest size that has two."""
    for size in sorted({point.rows for point in points}):
        rates = [float(np.nanmean(p.right)) for p in points if p.rows == size]
        if len(rates) > 1:
            return float(np.std(rates, ddof=1))
    return 0.0


def _line(x: Floats, rates: Floats, at: float) -> Floats:
    """Least squares over `x` for each row of `rates`, read at `at`."""
    centred = x - x.mean()
    slope = rates @ centred / (centred @ centred)
    return np.asarray(rates.mean(axis=1) + slope * (at - x.mean()))


def _rate(values: Floats) -> Estimate | None:
    known = values[~np.isnan(values)]
    return share(known) if known.size else None


def _limits(found: Estimate | None) -> dict[str, float | None]:
    if found is None:
        return {"rate": None, "low": None, "high": None}
    return {"rate": found.value, "low": found.low, "high": found.high}
