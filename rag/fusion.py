"""One order out of two: how near a passage is in meaning, and how much of the query's words it has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.search_settings import Fusion

DENSE_WEIGHT = 0.7
"""Share of the meaning where the encoder is for the documents' language; docs/retrieval.md has the measurements."""

FOREIGN_WEIGHT = 0.35
"""Share of the meaning where the encoder's card names other languages than the documents'."""

RRF_K = 60
"""Cormack, Clarke and Buettcher (2009), SIGIR: the constant of reciprocal rank fusion."""

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


class Hits(NamedTuple):
    """Rows found for one query, best first, with their scores."""

    rows: list[int]
    scores: list[float]


def dense_weight(model_languages: Sequence[str], language: str) -> float:
    """Weight of the cosine, given the languages a model is for (() is unknown) and the documents' (ISO; "" is unknown)."""
    if not model_languages or not language or language in model_languages or "multilingual" in model_languages:
        return DENSE_WEIGHT
    return FOREIGN_WEIGHT


def fused(rows: Rows, nearness: Floats, words: Floats, weight: float, fusion: Fusion = "convex") -> Floats:
    """A score for each candidate, in the order of `rows`.

    Args:
        nearness: cosines by `rag.scale.Scale.standard`.
        words: BM25 scores.
        weight: the meaning's share, 0 to 1.
    """
    combine = _reciprocal if fusion == "rrf" else _convex
    return combine(rows, nearness, words, weight)


def ranked(rows: Rows, scores: Floats) -> Hits:
    """`rows` by falling score; ties keep the order of rows."""
    order = np.lexsort((rows, -scores))
    return Hits(rows[order].tolist(), scores[order].tolist())


def squashed(score: float) -> float:
    """A convex score between 0 and 1, as it is shown. It keeps the order, and is no probability.

    The curve was fitted to which of the ten best are right, on the dev questions of docs/retrieval.md.
    """
    return float(1 / (1 + np.exp(min(700.0, 5.2 - 0.72 * score))))


def _convex(_rows: Rows, nearness: Floats, words: Floats, weight: float) -> Floats:
    """`weight` x nearness + (1 - `weight`) x BM25.

    A convex combination (Bruch, Gai and Ingber 2023, "An Analysis of Fusion Functions for Hybrid Retrieval"), which
    keeps how far ahead a hit is; reciprocal rank fusion throws that away. Neither score is scaled by the query's other
    hits. BM25 is a sum of evidence in nats (Robertson and Zaragoza 2009): a question of one common word has little of
    it and leaves the decision to the meaning, one of five rare names has much.
    """
    return np.asarray(weight * nearness + (1 - weight) * words, np.float32)


def _reciprocal(rows: Rows, nearness: Floats, words: Floats, weight: float) -> Floats:
    """(K + 1) x the weighted sum of 1 / (K + rank); a passage without any of the words has no rank by words."""
    near = 1 / (RRF_K + _ranks(rows, nearness))
    by_words = np.where(words > 0, 1 / (RRF_K + _ranks(rows, words)), 0)
    return np.asarray((RRF_K + 1) * (weight * near + (1 - weight) * by_words), np.float32)


def _ranks(rows: Rows, scores: Floats) -> NDArray[np.int64]:
    """1-based."""
    ranks = np.empty(len(rows), np.int64)
    ranks[np.lexsort((rows, -scores))] = np.arange(1, len(rows) + 1)
    return ranks
