"""How many items an eval set needs, and what the items it has can show: the power of the exact McNemar test."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, bdtrc, gammaln, ndtri

from core.errors import ConfigError

Floats = NDArray[np.float64]

LOSS_RATE = 0.05
POWER = 0.8


def mcnemar_power(n: int, gain: float, loss_rate: float = LOSS_RATE, alpha: float = 0.05) -> float:
    """Chance that the exact two-sided McNemar test shows a true `gain` (a share) on n items."""
    discordant_rate = gain + 2 * loss_rate
    if discordant_rate <= 0 or discordant_rate > 1:
        return 0.0
    discordant = np.arange(n + 1)
    fewest = _fewest_gained(n, alpha)
    log_choose = gammaln(n + 1) - gammaln(discordant + 1) - gammaln(n - discordant + 1)
    weight = np.exp(
        log_choose + _times_log(discordant, discordant_rate) + _times_log(n - discordant, 1 - discordant_rate)
    )
    reject = bdtrc(fewest - 1.0, discordant, (gain + loss_rate) / discordant_rate)
    return float((weight * np.where(fewest <= discordant, reject, 0.0)).sum())


@lru_cache(maxsize=256)
def items_needed(delta_points: float, loss_rate: float = LOSS_RATE, power: float = POWER, alpha: float = 0.05) -> int:
    """Items after which the exact McNemar test shows a gain of `delta_points` with chance `power`.

    The smallest n from which on the power stays there: the exact test's power is a
    saw-tooth in n. `delta_points` is in points of 100; `loss_rate` is the share of
    items the better arm loses.

    Raises:
        ConfigError: no eval set could show that gain (not within 0-100 points with its losses).
    """
    gain = delta_points / 100
    if not 0 < gain <= 1 or gain + 2 * loss_rate > 1 + 1e-9:
        raise ConfigError(f"a gain of {delta_points} points with {100 * loss_rate:g} % lost cannot happen")
    low, high = 1, 16
    while mcnemar_power(high, gain, loss_rate, alpha) < power:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if mcnemar_power(middle, gain, loss_rate, alpha) >= power else (middle, high)
    last_short = max(
        (n for n in range(high, high + 12 + high // 10) if mcnemar_power(n, gain, loss_rate, alpha) < power),
        default=high - 1,
    )
    return last_short + 1


def detectable_points(n: int) -> int | None:
    """The smallest gain, in whole points, that n items show with chance `POWER`; None when not even the largest."""
    most = int(100 * (1 - 2 * LOSS_RATE))
    if mcnemar_power(n, most / 100) < POWER:
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if mcnemar_power(n, middle / 100) >= POWER else (middle, high)
    return high


@lru_cache(maxsize=64)
def _fewest_gained(most: int, alpha: float) -> Floats:
    """For m = 0..most discordant items: the fewest gained with two-sided exact p <= alpha (m + 1: never)."""
    discordant = np.arange(most + 1)
    # Most losses k with 2 * P(Bin(m, 1/2) <= k) <= alpha, starting from the normal limit.
    k = np.minimum(np.floor(discordant / 2 + ndtri(alpha / 2) * np.sqrt(discordant) / 2) + 2, discordant)
    for _ in range(6):
        k = np.where((k >= 0) & (2 * bdtr(np.maximum(k, 0), discordant, 0.5) > alpha), k - 1, k)
    return np.asarray(discordant - k, dtype=float)


def _times_log(count: NDArray[Any], probability: float) -> Any:
    """count * log(probability), 0 where count is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(count == 0, 0.0, count * np.log(probability))
