"""Figures as sentences show them."""

from __future__ import annotations


def points(share: float) -> str:
    """A difference of shares in signed points: `+12.3`."""
    return f"{100 * share:+.1f}"


def chance(share: float) -> str:
    """A chance as people say it: never 0 % or 100 %."""
    return "over 99%" if share > 0.99 else "under 1%" if share < 0.01 else f"{share:.0%}"


def cores(n: int) -> str:
    return f"{n} {'core' if n == 1 else 'cores'}"
