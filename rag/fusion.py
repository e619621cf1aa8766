"""One score out of two: how near a passage is in meaning, and how much of the query's words it has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DENSE_WEIGHT = 0.65
"""Share of the cosine where the encoder is for the documents' language; docs/retrieval.md has the measurements."""

FOREIGN_WEIGHT = 0.1
"""Share of the cosine where the encoder's card names other languages than the documents'."""


class Hits(NamedTuple):
    """Rows found for one query, best first, with their scores."""

    rows: list[int]
    scores: list[float]


def dense_weight(model_languages: Sequence[str], language: str) -> float:
    """Weight of the cosine, given the languages a model is for (() is unknown) and the documents' (ISO; "" is unknown)."""
    if not model_languages or not language or language in model_languages or "multilingual" in model_languages:
        return DENSE_WEIGHT
    return FOREIGN_WEIGHT


def fused(rows: NDArray[np.int64], cosines: NDArray[np.float32], lexical: NDArray[np.float32], weight: float) -> Hits:
    """The candidates by `weight` x cosine + (1 - `weight`) x lexical score, best first; ties keep the order of rows.

    A convex combination (Bruch, Gai and Ingber 2023, "An Analysis of Fusion Functions for Hybrid Retrieval"), which
    keeps how far ahead a hit is; reciprocal rank fusion throws that away. Neither score is scaled by the query's other
    hits: the cosine is absolute, and the lexical one is a share of what the query's words could give. So the sum
    compares across queries, and a query of common words alone leaves the decision to the cosine.
    """
    scores = weight * cosines + (1 - weight) * lexical
    order = np.lexsort((rows, -scores))
    return Hits(rows[order].tolist(), scores[order].tolist())
