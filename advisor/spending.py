"""How much of alpha each look at a growing eval set may spend, so that looking often does not find more than there is.

Lan and DeMets (1983), Biometrika 70:659: a function of the information fraction says how much of alpha has been
spent by each look; the nominal level of a look follows from the joint distribution of the looks' statistics, by the
recursive integration of Armitage, McPherson and Rowe (1969), JRSS A 132:235. The function is the power family of Kim
and DeMets (1987), Biometrika 74:149, alpha * t**power: 1 is close to Pocock's bounds, 3 to O'Brien and Fleming's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

POWERS = ((150, 3.0), (10**9, 2.0))
"""Exponent by the planned number of items, at most: a small set needs nearly all of alpha at its last look, a large one has
the items to stop early on."""
FIRST_LOOK = 12
"""Items before the first look: a gain of 60 points can be shown by then, and an idle arm begins to look idle."""
GROWTH = 1.4
"""Each look sees that many times the items of the last."""
LEAST_ITEMS = 40
"""Below this an eval set is looked at once: there is little to save, and none of it to waste."""
_GRID = 401
_WIDEST = 8.0


def look_sizes(items: int) -> tuple[int, ...]:
    """Numbers of items at which the evidence is looked at, the last being all of them.

    A last step of under 15 % of the items is joined to the one before.
    """
    if items < LEAST_ITEMS:
        return (items,)
    sizes: list[int] = []
    size = float(FIRST_LOOK)
    while size < 0.85 * items:
        sizes.append(round(size))
        size *= GROWTH
    return (*sizes, items)


@lru_cache(maxsize=64)
def nominal_levels(sizes: Sequence[int], alpha: float = 0.05) -> tuple[float, ...]:
    """Two-sided level at each look; all looks together reject a true null with chance `alpha`.

    Args:
        sizes: items seen at each look, rising; the last is the whole eval set (a tuple).
    """
    fractions = [size / sizes[-1] for size in sizes]
    power = next(power for most, power in POWERS if sizes[-1] <= most)
    spent = [alpha * t**power for t in fractions]
    levels: list[float] = []
    density: NDArray[np.float64] | None = None
    grid = np.zeros(0)
    for look, t in enumerate(fractions):
        quota = (spent[look] - (spent[look - 1] if look else 0.0)) / 2
        sd = np.sqrt(t)
        if density is None:
            bound = float(-ndtri(quota))
        else:
            step = np.sqrt(t - fractions[look - 1])
            bound = _bound(quota, sd, step, grid, density)
        levels.append(float(2 * ndtr(-bound)))
        inside = np.linspace(-1, 1, _GRID) * min(bound, _WIDEST) * sd
        if density is None:
            following = np.exp(-0.5 * (inside / sd) ** 2) / (sd * np.sqrt(2 * np.pi))
        else:
            away = (inside[:, None] - grid[None, :]) / step
            following = (np.exp(-0.5 * away**2) / (step * np.sqrt(2 * np.pi))) @ (density * _weights(grid))
        density, grid = following, inside
    return tuple(levels)


def _bound(quota: float, sd: float, step: float, grid: NDArray[np.float64], density: NDArray[np.float64]) -> float:
    """The z beyond which the walk first goes at this look with chance `quota` on one side."""
    mass = density * _weights(grid)
    low, high = 0.0, _WIDEST
    for _ in range(50):
        middle = (low + high) / 2
        beyond = float(mass @ ndtr((grid - middle * sd) / step))
        low, high = (middle, high) if beyond > quota else (low, middle)
    return (low + high) / 2


def _weights(grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Simpson's weights on an odd number of even points."""
    weights = np.full(grid.size, 2.0)
    weights[1::2] = 4.0
    weights[[0, -1]] = 1.0
    return np.asarray(weights * (grid[1] - grid[0]) / 3)
