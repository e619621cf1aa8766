"""One ranking out of two: dense and lexical scores, scaled per query and added with a weight."""

from __future__ import annotations

from typing import NamedTuple

DENSE_WEIGHT = 0.75
"""Share of the dense score; see docs/retrieval.md for the measurements it comes from."""


class Hits(NamedTuple):
    """Rows found for one query, best first, with their scores."""

    rows: list[int]
    scores: list[float]


def fused(dense: Hits, lexical: Hits, depth: int, weight: float = DENSE_WEIGHT) -> Hits:
    """Both rankings as one: `weight` x dense + (1 - `weight`) x lexical, each scaled to 0..1 over its `depth` best.

    A convex combination (Bruch, Gai and Ingber 2023, "An Analysis of Fusion Functions for Hybrid Retrieval"): it keeps
    how far ahead a hit is, which the ranks of reciprocal rank fusion throw away. Ties keep the order of rows.
    """
    total: dict[int, float] = {}
    for hits, share, floor in ((dense, weight, None), (lexical, 1 - weight, 0.0)):
        for row, score in zip(hits.rows, _scaled(hits.scores[:depth], depth, floor), strict=False):
            total[row] = total.get(row, 0.0) + share * score
    order = sorted(total, key=lambda row: (-total[row], row))
    return Hits(order, [total[row] for row in order])


def _scaled(scores: list[float], depth: int, floor: float | None) -> list[float]:
    """Scores from 1 (the best) to 0 (the `depth`-th best, or `floor` when there are fewer)."""
    if not scores:
        return []
    low = floor if floor is not None and len(scores) < depth else scores[-1]
    spread = scores[0] - low
    return [(score - low) / spread if spread > 0 else 1.0 for score in scores]
