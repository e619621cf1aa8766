"""Arms of one table against each other: the representative of a family, gains with their tests, bootstrap draws.

Everything the rule looks at is made here, for rows and for totals alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from advisor.outcomes import CORRECT, REFUSED, WRONG, ArmOutcomes, OutcomeTable, Totals
from core.stats import (
    Estimate,
    cluster_gain_p,
    cluster_gain_ps,
    cluster_mcnemar,
    holm_discrete,
    mcnemar_exact,
    mcnemar_gain_p,
    mcnemar_gain_ps,
    newcombe_unpaired,
    paired_bootstrap,
    paired_difference,
    paired_p,
    share,
    unpaired_p,
    wilson,
)

Floats = NDArray[np.float64]
Measure = Literal["correct", "content"]

DRAWS = 4000
TYPICAL_GAIN = 0.20
SAME_ITEMS = 0.75
"""Totals whose sizes differ by no more than that may stand for the same items, some calls failed."""
PRIOR_ITEMS = 0.5
"""Weight of the two imagined items of each gain (one gained, one lost) in the draws; without them 8 of 8 would be certainty."""


@dataclass(frozen=True)
class Side:
    """One side of a comparison: an arm, or a family that its arms represent in turn."""

    name: str
    """As comparisons show it."""
    ship: str
    """The arm that would be built."""
    correct: Floats | Totals
    content: Floats | Totals
    variants: int = 1
    """How many were looked at to pick this one without a held-out half (totals only)."""

    def measure(self, which: Measure) -> Floats | Totals:
        return self.correct if which == "correct" else self.content


@dataclass(frozen=True)
class Comparison:
    arm: str
    against: str
    measure: Measure
    gained: int | None
    """Items right here and not there; None where only totals are known."""
    lost: int | None
    p: float
    """Two-sided: exact McNemar, sign-flips over clusters, or the unpaired test."""
    p_gain: float
    """One-sided mid-p of a gain; what Holm works on."""
    p_holm: float
    gain: Estimate
    paired: bool
    attainable: Floats | None = field(default=None, repr=False, compare=False)
    """Every p_gain that this comparison could have given; None: any."""

    def shows(self, delta: float, alpha: float) -> bool:
        """Whether the arm gains: at least delta, lower bound over 0, significant after Holm."""
        return at_least(self.gain.value, delta) and self.gain.low > 0 and self.p_holm <= alpha

    def to_json(self) -> dict[str, Any]:
        shown = asdict(replace(self, attainable=None))
        del shown["attainable"]
        return shown


def at_least(value: float, limit: float) -> bool:
    """0.86 - 0.81 is 0.05 to a reader, but not to a float."""
    return value >= limit - 1e-9


def side(table: OutcomeTable, arm: str) -> Side:
    if arm in table.totals:
        return Side(arm, arm, table.totals[arm], table.totals[arm])
    return Side(arm, arm, table.arms[arm].correct, table.arms[arm].content)


def rate(table: OutcomeTable, arm: str, measure: Measure = "correct") -> Estimate:
    """Share of scored items that the arm has right, errors left out."""
    values = side(table, arm).measure(measure)
    if isinstance(values, Totals):
        return wilson(values.correct, values.n)
    scored = ~np.isnan(values)
    return share(values[scored], _clusters(table, scored))


def compare(table: OutcomeTable, a: Side, b: Side, measure: Measure = "correct") -> Comparison | None:
    """How much `a` gains over `b` on the items that both have answered; None when there is none."""
    key = (a.name, a.variants, id(a.measure(measure)), b.name, b.variants, id(b.measure(measure)))
    if key not in table.compared:
        # The sides are kept beside the result: while they live, no other array has their id.
        table.compared[key] = (_compare(table, a, b, measure), a, b)
    found: Comparison | None = table.compared[key][0]
    return None if found is None else replace(found, measure=measure)


def _compare(table: OutcomeTable, a: Side, b: Side, measure: Measure) -> Comparison | None:
    first, second = a.measure(measure), b.measure(measure)
    if isinstance(first, Totals) or isinstance(second, Totals):
        assert isinstance(first, Totals)
        assert isinstance(second, Totals)
        gain = newcombe_unpaired(first.correct, first.n, second.correct, second.n)
        p = unpaired_p(first.correct, first.n, second.correct, second.n)
        p = min(1.0, a.variants * max(p, _least_p_of_rows(first, second)))
        return Comparison(a.name, b.name, measure, None, None, p, _towards(p, gain), p, gain, False)
    both = ~np.isnan(first) & ~np.isnan(second)
    if not both.any():
        return None
    x, y, clusters = first[both], second[both], _clusters(table, both)
    gained, lost = int((x > y).sum()), int((x < y).sum())
    attainable = None
    if table.graded:
        gain, p = paired_bootstrap(x, y, clusters), paired_p(x, y, clusters)
        p_gain = _towards(p, gain)
    else:
        gain = paired_difference(x, y, clusters)
        if clusters is None:
            p, p_gain = mcnemar_exact(gained, lost), mcnemar_gain_p(gained, lost)
            attainable = mcnemar_gain_ps(gained + lost)
        else:
            net = _net(x, y, clusters)
            p, p_gain = cluster_mcnemar(net), cluster_gain_p(net)
            attainable = cluster_gain_ps(net)
    return Comparison(a.name, b.name, measure, gained, lost, p, p_gain, p, gain, True, attainable)


def _least_p_of_rows(a: Totals, b: Totals) -> float:
    """The smallest p that the rows behind two totals could have: all of the difference gained, and nothing lost.

    The unpaired test knows no pairs and falls below it on a few items (3 of 3 against 0 of 3: 0.025, exact McNemar
    0.25). 0 where the sizes say that these are not the same items.
    """
    fewer, more = sorted((a.n, b.n))
    if fewer < SAME_ITEMS * more:
        return 0.0
    return float(min(1.0, 2 * 0.5 ** (abs(a.correct / a.n - b.correct / b.n) * fewer)))


def adjust(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same comparisons with `p_holm` set over all of them.

    A gain is one-sided: the chance of a false gain in the family is held at alpha, so
    Holm works on the one-sided p in the direction seen (gains among themselves, losses
    among themselves). A comparison's own two-sided p is a floor: no arm counts as
    gaining on evidence that its own 95 % interval would not carry.
    """
    attainable = [c.attainable for c in comparisons]
    ups = holm_discrete([c.p_gain for c in comparisons], attainable)
    # A loss is as likely as a gain under no effect, so both have the same attainable p.
    downs = holm_discrete([1 - c.p_gain for c in comparisons], attainable)
    return [
        replace(c, p_holm=max(c.p, up if c.gain.value >= 0 else down))
        for c, up, down in zip(comparisons, ups, downs, strict=True)
    ]


def adjust_beside(family: Sequence[Comparison], extra: Comparison) -> Comparison:
    """`extra` with p_holm as if it alone had joined the family."""
    return adjust([*family, extra])[-1]


def represent(table: OutcomeTable, arms: Sequence[str], prefer: Mapping[str, float], tie: float) -> Side:
    """The family that `arms` are variants of, by its best variant, without flattering it.

    With items, the winner of each half answers on the other half (cross-fit), so the
    gain is not inflated by the choice. Totals cannot be split: the best is taken and
    its p is multiplied by the number of variants. Variants within `tie` of the best
    count as equal; the one with the lowest `prefer` is then taken (cost, by default).
    """
    if len(arms) == 1:
        return side(table, arms[0])
    if not table.paired:
        rates = {arm: table.totals[arm].correct / table.totals[arm].n for arm in arms}
        best = _pick(rates, prefer, tie)
        return replace(side(table, best), variants=len(arms))
    first_half = _halves(table)
    values = {arm: table.arms[arm].correct for arm in arms}
    best = _pick({arm: _mean(v) for arm, v in values.items()}, prefer, tie)
    by_first = _pick({arm: _mean(v[first_half]) for arm, v in values.items()}, prefer, tie)
    by_second = _pick({arm: _mean(v[~first_half]) for arm, v in values.items()}, prefer, tie)
    if by_first == by_second:
        return side(table, by_first)
    one, other = table.arms[by_second], table.arms[by_first]
    return Side(
        f"{best.partition(':')[0]}:cross-fit",
        best,
        np.where(first_half, one.correct, other.correct),
        np.where(first_half, one.content, other.content),
    )


def harm(table: OutcomeTable, arm: str, base: str, measure: Measure = "correct") -> Estimate | None:
    """Share of items that `arm` breaks: right in `base` and not here, or refused in `base` and wrong here.

    By content, an answer that is right in the wrong shape is not broken. None where outcomes are not known item by item.
    """

    def broken(here: ArmOutcomes, there: ArmOutcomes) -> NDArray[np.bool_]:
        if measure == "content":
            right_here, right_there = here.content == 1, there.content == 1
        else:
            right_here, right_there = here.outcome == CORRECT, there.outcome == CORRECT
        lost = right_there & ~right_here | (there.outcome == REFUSED) & (here.outcome == WRONG) & ~right_here
        return np.asarray(lost)

    return _share_of_shared(table, arm, base, broken)


def turned_wrong(table: OutcomeTable, arm: str, base: str) -> Estimate | None:
    """Share of items that `arm` has wrong, not refused, and `base` has right or refuses; None as for `harm`."""
    return _share_of_shared(table, arm, base, lambda here, there: (here.outcome == WRONG) & (there.outcome != WRONG))


def _share_of_shared(
    table: OutcomeTable, arm: str, base: str, what: Callable[[ArmOutcomes, ArmOutcomes], NDArray[np.bool_]]
) -> Estimate | None:
    """Share of the items that both arms have answered for which `what(arm, base)` holds."""
    if not table.paired or table.graded:
        return None
    here, there = table.arms[arm], table.arms[base]
    both = ~np.isnan(here.correct) & ~np.isnan(there.correct)
    if not both.any():
        return None
    return share(what(here, there)[both].astype(float), _clusters(table, both))


def doubt(table: OutcomeTable, a: Side, b: Side, measure: Measure = "correct") -> float:
    """Chance that `a` does nothing beyond `b`, before delta is asked for.

    Prior: half of all remedies do nothing beyond the simpler one, the others move the
    rate by some 20 points (normal). Without it the draws, which spread around what was
    seen, would have one of many idle arms win most of the time on a small eval set.
    The Bayes factor is the normal one, with the standard error read off the interval.
    """
    found = compare(table, a, b, measure)
    if found is None:
        return 0.5
    error = (found.gain.high - found.gain.low) / 3.92
    spread = TYPICAL_GAIN**2 / error**2
    z2 = (found.gain.value / error) ** 2
    log_odds = 0.5 * np.log1p(spread) - 0.5 * z2 * spread / (1 + spread)
    return float(expit(log_odds))


class Draws(NamedTuple):
    correct: dict[str, Floats]
    """Rate of each side in every draw, by key."""
    content: dict[str, Floats]


def draw(table: OutcomeTable, sides: Mapping[str, Side], base: str, draws: int = DRAWS, seed: int = 0) -> Draws:
    """Rates that the table leaves plausible: a Bayesian bootstrap over items (clusters whole), or Beta draws of totals.

    An arm measured on fewer items than `base` is drawn by its gain on the shared items, so that easy
    or hard subsets do not count for or against it.
    """
    rng = np.random.default_rng(seed)
    if not table.paired:
        rates: dict[str, Floats] = {}
        for key, item in sides.items():
            assert isinstance(item.correct, Totals)
            right, n = item.correct.correct, item.correct.n
            rates[key] = rng.beta(right + PRIOR_ITEMS, n - right + PRIOR_ITEMS, draws)
        return Draws(rates, rates)
    keys = [base, *(key for key in sides if key != base)]
    correct = np.stack([np.asarray(sides[key].correct) for key in keys], axis=1)
    content = np.stack([np.asarray(sides[key].content) for key in keys], axis=1)
    same = bool(np.array_equal(correct, content, equal_nan=True))
    values = correct if same else np.concatenate([correct, content], axis=1)
    drawn = _draw_rates(values, len(keys), table, rng, draws)
    by_key = {key: drawn[:, i] for i, key in enumerate(keys)}
    return Draws(by_key, by_key if same else {key: drawn[:, len(keys) + i] for i, key in enumerate(keys)})


def _draw_rates(values: Floats, block: int, table: OutcomeTable, rng: np.random.Generator, draws: int) -> Floats:
    """Rates, shape (draws, columns); the first column of each `block` is the base of its block."""
    columns, blocks = values.shape[1], values.shape[1] // block
    bases = np.arange(columns) // block * block
    weights = np.ones(len(values))
    if table.clusters is None and not table.graded:
        # Items with the same outcomes in all arms are one pattern: gamma(count) weights draw them at once.
        values, weights = _patterns(values)
    own = ~np.isnan(values)
    shared = own & own[:, bases]
    filled = np.where(own, values, 0.0)
    gained = np.where(shared, filled - filled[:, bases], 0.0)
    sums = np.concatenate([gained, shared, filled[:, ::block], own[:, ::block]], axis=1)
    if table.clusters is not None:
        sums = _by_cluster(sums, table.clusters)
        weights = np.ones(len(sums))
    real = len(sums)
    sums = np.concatenate([sums, _imagined(columns, blocks)])
    weights = np.concatenate([weights, np.full(len(sums) - real, PRIOR_ITEMS)])
    out = np.empty((draws, sums.shape[1]))
    step = max(1, 4_000_000 // len(sums))
    for start in range(0, draws, step):
        stop = min(draws, start + step)
        size = (stop - start, len(weights))
        # gamma(1) is the exponential, which numpy draws several times faster.
        alike = bool((weights[:real] == 1).all())
        drawn = rng.standard_exponential(size) if alike else rng.standard_gamma(weights, size)
        if alike:
            drawn[:, real:] = rng.standard_gamma(weights[real:], (stop - start, len(weights) - real))
        out[start:stop] = drawn @ sums
    gains = out[:, :columns] / out[:, columns : 2 * columns]
    base_rates = out[:, 2 * columns : 2 * columns + blocks] / out[:, 2 * columns + blocks :]
    gains[:, ::block] = 0.0
    return np.asarray(np.repeat(base_rates, block, axis=1) + gains)


def _imagined(columns: int, blocks: int) -> Floats:
    """Rows of sums of the prior: each gain once +1 and once -1, each base rate once 1 and once 0."""
    rows = np.zeros((2 * columns + 2 * blocks, 2 * columns + 2 * blocks))
    for column in range(columns):
        rows[2 * column : 2 * column + 2, column] = (1.0, -1.0)
        rows[2 * column : 2 * column + 2, columns + column] = 1.0
    for block in range(blocks):
        at = 2 * columns + 2 * block
        rows[at, 2 * columns + block] = 1.0
        rows[at : at + 2, 2 * columns + blocks + block] = 1.0
    return rows


def _patterns(values: Floats) -> tuple[Floats, Floats]:
    codes = np.where(np.isnan(values), 2, values).astype(np.int8)
    unique, counts = np.unique(
        np.ascontiguousarray(codes).view(np.dtype((np.void, codes.shape[1]))), return_counts=True
    )
    rows = unique.view(np.int8).reshape(-1, codes.shape[1])
    return np.where(rows == 2, np.nan, rows.astype(float)), counts.astype(float)


def _by_cluster(sums: Floats, clusters: NDArray[np.int64]) -> Floats:
    out = np.zeros((int(clusters.max()) + 1, sums.shape[1]))
    np.add.at(out, clusters, sums)
    return out


def _clusters(table: OutcomeTable, mask: NDArray[np.bool_]) -> NDArray[np.int64] | None:
    """Clusters of the items in `mask`; None when each stands alone there."""
    if table.clusters is None:
        return None
    chosen = table.clusters[mask]
    return None if len(np.unique(chosen)) == len(chosen) else chosen


def _towards(p: float, gain: Estimate) -> float:
    """One-sided p of a gain from a symmetric two-sided one."""
    return p / 2 if gain.value >= 0 else 1 - p / 2


def _net(x: Floats, y: Floats, clusters: NDArray[np.int64]) -> NDArray[np.int64]:
    _, codes = np.unique(clusters, return_inverse=True)
    return np.rint(np.bincount(codes, weights=x - y)).astype(np.int64)


def _halves(table: OutcomeTable) -> NDArray[np.bool_]:
    """True for the items of the first half; a cluster is never split. Depends on item names alone, not on row order."""
    units = np.arange(len(table.items)) if table.clusters is None else table.clusters
    count = int(units.max()) + 1
    return np.asarray((np.random.default_rng(0).permutation(count) < count / 2)[units])


def _mean(values: Floats) -> float:
    scored = values[~np.isnan(values)]
    return float(scored.mean()) if scored.size else -1.0


def _pick(rates: Mapping[str, float], prefer: Mapping[str, float], tie: float) -> str:
    best = max(rates.values())
    level = [arm for arm in rates if rates[arm] >= best or best - rates[arm] < tie - 1e-9]
    return min(level, key=lambda arm: (prefer.get(arm, 0.0), -rates[arm], list(rates).index(arm)))
