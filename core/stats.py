"""Shares, differences and tests for small eval sets: plain functions, arrays in, values out.

Only numpy and scipy.special are imported: `scipy.stats` and `statsmodels` hold
most of these formulas too, but cost 0.4 to 0.7 s to import, and `tunefork
decide` answers in under a second. The tests check every function here against
theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, bdtrc, gammaln, ndtr, ndtri, stdtrit

from core.errors import DataError

Floats = NDArray[np.float64]

DRAWS = 2000
"""Bootstrap draws: the 2.5 % quantile is then known to about 0.35 points of probability."""
RESAMPLED = 4
"""Fewest units whose resamples tell a spread."""
SIGN_FLIPS = 9999

TOP = 0.975
"""Every interval is the middle 95 %; this is its upper quantile."""
Z = float(ndtri(TOP))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value, its 95 % interval and the number of items behind it."""

    value: float
    low: float
    high: float
    n: int


def wilson(successes: float, n: int) -> Estimate:
    """Share of successes with its Wilson score interval.

    Used for every accuracy we print: unlike mean +/- z*stderr it stays inside
    [0, 1] and keeps a width at 0/n and n/n, which small eval sets do reach.
    `successes` may be fractional: a mean score times n, whose variance the
    binomial one bounds from above.

    Raises:
        DataError: `n` is 0. "No samples" is not an accuracy of zero.
    """
    if n <= 0:
        raise DataError(f"a share needs at least one item, got n = {n}")
    rate = successes / n
    return Estimate(rate, *_wilson_limits(rate, n, Z), n)


def share(values: ArrayLike, clusters: ArrayLike | None = None) -> Estimate:
    """Mean of values in 0..1 with a Wilson interval; with `clusters` it is as wide as their design effect asks.

    Raises:
        DataError: no values.
    """
    array = np.asarray(values, float)
    if clusters is None or array.size == 0:
        return wilson(float(array.sum()), int(array.size))
    effect, critical = _design_effect(array, np.asarray(clusters))
    low, high = _wilson_limits(float(array.mean()), array.size / effect, critical)
    return Estimate(float(array.mean()), low, high, int(array.size))


def mcnemar_exact(gained: int, lost: int) -> float:
    """Two-sided exact McNemar p: could a fair coin split the discordant items this unevenly?"""
    discordant = gained + lost
    if discordant == 0:
        return 1.0
    return float(min(1.0, 2 * bdtr(min(gained, lost), discordant, 0.5)))


def mcnemar_gain_p(gained: int, lost: int) -> float:
    """One-sided mid-p that gained outweighs lost: P(more gained) + P(as many) / 2 under a fair coin.

    Exact p-values are conservative because counts are discrete, and a Holm family adds that up;
    the mid-p holds its level (Fagerland, Lydersen, Laake 2013, BMC Medical Research Methodology 13:91).
    """
    discordant = gained + lost
    at_least = float(bdtrc(gained - 1, discordant, 0.5)) if gained else 1.0
    above = float(bdtrc(gained, discordant, 0.5)) if gained < discordant else 0.0
    return (at_least + above) / 2


def mcnemar_gain_ps(discordant: int) -> Floats:
    """Every value that `mcnemar_gain_p` takes with that many discordant items, rising."""
    gained = np.arange(discordant, -1, -1)
    at_least = np.where(gained > 0, bdtrc(gained - 1.0, discordant, 0.5), 1.0)
    above = np.where(gained < discordant, bdtrc(np.minimum(gained, discordant - 0.5), discordant, 0.5), 0.0)
    return np.asarray((at_least + above) / 2)


def cluster_mcnemar(net: NDArray[np.int64]) -> float:
    """Two-sided exact p of a sign-flip test over clusters; `net` is gained minus lost of each cluster.

    Each cluster's arms are swapped as one block, so items that share a document do
    not count as independent. With clusters of one item it is the exact McNemar test.
    """
    if np.abs(net).max(initial=0) <= 1:
        return mcnemar_exact(int((net > 0).sum()), int((net < 0).sum()))
    sums, pmf = _sign_flips(net)
    return float(np.clip(pmf[np.abs(sums) >= abs(int(net.sum()))].sum(), 1e-14, 1.0))


def cluster_gain_p(net: NDArray[np.int64]) -> float:
    """One-sided mid-p of the sign-flip test over clusters; see `mcnemar_gain_p` and `cluster_mcnemar`."""
    if np.abs(net).max(initial=0) <= 1:
        return mcnemar_gain_p(int((net > 0).sum()), int((net < 0).sum()))
    sums, pmf = _sign_flips(net)
    observed = int(net.sum())
    return float(np.clip(pmf[sums > observed].sum() + pmf[sums == observed].sum() / 2, 1e-14, 1.0))


def cluster_gain_ps(net: NDArray[np.int64]) -> Floats:
    """Every value that `cluster_gain_p` takes under sign flips of `net`, rising."""
    if np.abs(net).max(initial=0) <= 1:
        return mcnemar_gain_ps(int((net != 0).sum()))
    _, pmf = _sign_flips(net)
    likely = pmf > 1e-15
    falling = pmf[likely][::-1]
    return np.asarray(np.cumsum(falling) - falling / 2)


def paired_difference(a: ArrayLike, b: ArrayLike, clusters: ArrayLike | None = None) -> Estimate:
    """Share right in `a` minus share right in `b`, on the same items, with Tango's score interval.

    Tango (1998), Statistics in Medicine 17:891. It keeps a width when no item is
    discordant: 0 gained and 0 lost of n leaves +-3.84 / (n + 3.84). With `clusters`
    the counts are divided by the design effect of the cluster sums (never below 1) and
    the normal quantile becomes Student's.

    Raises:
        DataError: no items, or arrays of different lengths.
    """
    right_a, right_b = _same_length(np.asarray(a, bool), np.asarray(b, bool))
    n = int(right_a.size)
    gained = float((right_a & ~right_b).sum())
    lost = float((~right_a & right_b).sum())
    critical, shrink = Z, 1.0
    if clusters is not None:
        effect, critical = _design_effect(right_a.astype(float) - right_b, np.asarray(clusters))
        shrink = 1 / effect
    low, high = _tango(gained * shrink, lost * shrink, n * shrink, critical)
    return Estimate((gained - lost) / n, low, high, n)


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    clusters: ArrayLike | None = None,
) -> Estimate:
    """Mean of `a - b` on the same items with a studentised bootstrap interval; clusters are drawn whole.

    Studentised (bootstrap-t), because the plain percentile interval covers too
    rarely at the 30 to 100 items an eval set has. Differences that are all equal have
    no spread to resample, and a tenth of the draws of three units have none; they get the
    paired score interval's width instead.

    Raises:
        DataError: no items, or arrays of different lengths.
    """
    first, second = _same_length(np.asarray(a, float), np.asarray(b, float))
    difference = first - second
    n = int(difference.size)
    sums, sizes = _cluster_sums(difference, None if clusters is None else np.asarray(clusters))
    mean = float(difference.mean())
    groups = sums.size
    error = _ratio_error(sums, sizes)
    if groups < RESAMPLED or error < 1e-12:
        half = Z**2 / (groups + Z**2)
        return Estimate(mean, max(-1.0, mean - half), min(1.0, mean + half), n)
    # Around the mean and in units of the largest rest single precision loses nothing, and takes a fifth of the time.
    rest = sums - mean * sizes
    unit = float(np.abs(rest).max())
    rest = rest / unit
    columns = np.stack([rest, sizes, rest * rest, rest * sizes, sizes * sizes], axis=1)
    columns = columns.astype(np.float32 if groups > 1000 else np.float64)
    total, count, squares, cross, counts2 = (resamples(groups) @ columns).T.astype(np.float64)
    off = total / count
    spread = np.sqrt(np.maximum(squares - 2 * off * cross + off**2 * counts2, 0) * groups / (groups - 1)) / count
    # A draw without spread says nothing about t; it is rare beyond a handful of items.
    told = unit * spread > 1e-4 * error
    t = off[told] / spread[told]
    above, below = np.quantile(t, [TOP, 1 - TOP]) if t.size else (Z, -Z)
    return Estimate(mean, max(-1.0, mean - float(above) * error), min(1.0, mean - float(below) * error), n)


def paired_p(a: ArrayLike, b: ArrayLike, clusters: ArrayLike | None = None) -> float:
    """Two-sided p of a sign-flip test on the cluster sums of `a - b` (graded scores).

    Monte Carlo up to 400 clusters, the normal limit beyond.
    """
    first, second = _same_length(np.asarray(a, float), np.asarray(b, float))
    sums, _ = _cluster_sums(first - second, None if clusters is None else np.asarray(clusters))
    sums = sums[np.abs(sums) > 1e-12]
    if sums.size == 0:
        return 1.0
    observed = abs(float(sums.sum()))
    if sums.size > 400:
        return float(2 * ndtr(-observed / np.sqrt((sums * sums).sum())))
    signs = np.random.default_rng(0).integers(0, 2, size=(SIGN_FLIPS, sums.size), dtype=np.int8) * 2 - 1
    extreme = (np.abs(signs @ sums) >= observed - 1e-9).sum()
    return float((extreme + 1) / (SIGN_FLIPS + 1))


def newcombe_unpaired(successes_a: float, n_a: int, successes_b: float, n_b: int) -> Estimate:
    """Difference of two independent shares with Newcombe's hybrid score interval (1998, method 10).

    `n` of the result is the smaller of the two.
    """
    a, b = wilson(successes_a, n_a), wilson(successes_b, n_b)
    difference = a.value - b.value
    low = difference - float(np.hypot(a.value - a.low, b.high - b.value))
    high = difference + float(np.hypot(a.high - a.value, b.value - b.low))
    return Estimate(difference, low, high, min(n_a, n_b))


def unpaired_p(successes_a: float, n_a: int, successes_b: float, n_b: int) -> float:
    """Two-sided p for two independent shares.

    The N-1 chi-squared test, or Fisher's exact test where an expected count is under
    1, as Campbell (2007), Statistics in Medicine 26:3661, recommends.
    """
    total = n_a + n_b
    pooled = (successes_a + successes_b) / total
    if min(pooled, 1 - pooled) * min(n_a, n_b) < 1:
        return _fisher(round(successes_a), n_a, round(successes_b), n_b)
    difference = successes_a / n_a - successes_b / n_b
    variance = pooled * (1 - pooled) * (1 / n_a + 1 / n_b) * total / (total - 1)
    return float(2 * ndtr(-abs(difference) / np.sqrt(variance)))


def holm_discrete(pvalues: Sequence[float], attainable: Sequence[Floats | None]) -> list[float]:
    """Holm's step-down p-values, each test counted only with what it can attain; never above Holm's own.

    Westfall and Wolfinger (1997), The American Statistician 51:3: a test of counts takes few values. One
    that cannot reach the smallest p at all (four items changed, say) is no chance for a false gain of that
    size, so it costs the others nothing.

    Args:
        attainable: every p-value that a test could have given, rising; None: any (continuous).
    """

    def at_most(index: int, p: float) -> float:
        values = attainable[index]
        if values is None:
            return p
        found = int(np.searchsorted(values, p * (1 + 1e-9), side="right"))
        return float(values[found - 1]) if found else 0.0

    adjusted = [0.0] * len(pvalues)
    order = sorted(range(len(pvalues)), key=lambda i: pvalues[i])
    running = 0.0
    for rank, index in enumerate(order):
        p = pvalues[index]
        running = max(running, min(1.0, p + sum(at_most(other, p) for other in order[rank + 1 :])))
        adjusted[index] = running
    return adjusted


@lru_cache(maxsize=2)
def resamples(groups: int, seed: int = 0) -> NDArray[np.float32]:
    """How often each of `groups` units is drawn in each bootstrap draw; shape (DRAWS, groups), read-only."""
    rng = np.random.default_rng(seed)
    counts = np.empty((DRAWS, groups), dtype=np.float32)
    for row in counts:
        row[:] = np.bincount(rng.integers(0, groups, groups), minlength=groups)
    counts.setflags(write=False)
    return counts


def _sign_flips(net: NDArray[np.int64]) -> tuple[NDArray[np.int64], Floats]:
    """Values of sum(+-net) and their chances: the characteristic function prod(cos(net * t)), inverted by FFT."""
    size = np.abs(net[net != 0])
    total = int(size.sum())
    angles = 2 * np.pi * np.arange(2 * total + 1) / (2 * total + 1)
    spectrum = np.ones(2 * total + 1)
    for magnitude, count in zip(*np.unique(size, return_counts=True), strict=True):
        spectrum *= np.cos(magnitude * angles) ** count
    return np.arange(-total, total + 1), np.fft.fftshift(np.fft.ifft(spectrum).real)


def _wilson_limits(rate: float, n: float, critical: float) -> tuple[float, float]:
    z2 = critical**2
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = float(np.sqrt(z2 * (rate * (1 - rate) / n + z2 / (4 * n * n)))) / (1 + z2 / n)
    # At 0/n and n/n the limit is the rate itself; rounding would leave 1e-17 on the wrong side.
    return max(0.0, centre - half) if rate > 0 else 0.0, min(1.0, centre + half) if rate < 1 else 1.0


def _same_length(a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    if a.shape != b.shape or a.ndim != 1:
        raise DataError(f"paired arms must answer the same items, got {a.shape} and {b.shape}")
    if a.size == 0:
        raise DataError("a comparison needs at least one item that both arms answered")
    return a, b


class _Sums(NamedTuple):
    sums: Floats
    sizes: Floats


def _cluster_sums(values: Floats, clusters: NDArray[Any] | None) -> _Sums:
    if clusters is None:
        return _Sums(values, np.ones_like(values))
    _, codes = np.unique(clusters, return_inverse=True)
    return _Sums(np.asarray(np.bincount(codes, weights=values), float), np.bincount(codes).astype(float))


def _ratio_error(sums: Floats, sizes: Floats) -> float:
    """Standard error of sum(sums) / sum(sizes), clusters being the independent units."""
    groups = sums.size
    if groups < 2:
        return 0.0
    residual = sums - sums.sum() / sizes.sum() * sizes
    return float(np.sqrt(groups / (groups - 1) * (residual**2).sum()) / sizes.sum())


def _design_effect(values: Floats, clusters: NDArray[Any]) -> tuple[float, float]:
    """Variance of the mean with clusters over that without (at least 1), and the quantile that goes with it.

    Student's, with Satterthwaite's degrees of freedom: only the clusters' own share of
    the variance is estimated from few units.
    """
    summed = _cluster_sums(values, clusters)
    groups = summed.sums.size
    independent = _ratio_error(values, np.ones_like(values))
    if independent < 1e-12:
        # Nothing varies, so nothing is known of the clusters' effect: each counts once.
        return values.size / groups, Z
    effect = max(1.0, (_ratio_error(*summed) / independent) ** 2)
    if effect == 1:
        return effect, Z
    freedom = max(groups - 1, 1) * (effect / (effect - 1)) ** 2
    return effect, float(stdtrit(freedom, TOP))


def _tango(gained: float, lost: float, n: float, critical: float) -> tuple[float, float]:
    """Limits of Tango's interval: where the score statistic of (gained - lost) / n equals +-critical."""

    def score(difference: float) -> float:
        b = -gained - lost + (2 * n - gained + lost) * difference
        c = -lost * difference * (1 - difference)
        loss_rate = (sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
        variance = n * (2 * loss_rate + difference * (1 - difference))
        return (gained - lost - n * difference) / sqrt(max(variance, 1e-300))

    centre = (gained - lost) / n

    def limit(low: float, high: float, target: float) -> float:
        # score() falls in `difference`; bisect for score = target.
        for _ in range(34):
            middle = (low + high) / 2
            low, high = (middle, high) if score(middle) > target else (low, middle)
        return (low + high) / 2

    return limit(-1.0, centre, critical), limit(centre, 1.0, -critical)


def _fisher(a: int, n_a: int, b: int, n_b: int) -> float:
    """Two-sided Fisher exact p: all tables no likelier than the one seen."""
    right = a + b
    cells = np.arange(max(0, right - n_b), min(right, n_a) + 1)

    def log_choose(n: int, k: Any) -> Any:
        return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)

    pmf = np.exp(log_choose(n_a, cells) + log_choose(n_b, right - cells) - log_choose(n_a + n_b, right))
    seen = pmf[cells == a][0]
    return float(min(1.0, pmf[pmf <= seen * (1 + 1e-7)].sum()))
