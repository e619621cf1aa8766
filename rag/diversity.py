"""Fewer passages that say the same: near duplicates left out, and maximal marginal relevance."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from heapq import nsmallest

import numpy as np
from numpy.typing import NDArray

SHINGLE = 4
"""Words in a row that are compared."""

_SKETCH = 16

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|\w+")


@lru_cache(maxsize=1024)
def shingles(text: str) -> frozenset[int]:
    """Hashes of every `SHINGLE` words in a row (characters of Chinese and Japanese); of all words of a shorter text."""
    words = _WORD.findall(text.lower())
    last = max(1, len(words) - SHINGLE + 1)
    return frozenset(hash(tuple(words[i : i + SHINGLE])) for i in range(last))


def alike(a: frozenset[int], b: frozenset[int]) -> float:
    """Jaccard similarity of two texts' shingles (Broder 1997, "On the resemblance and containment of documents")."""
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


class Kept:
    """The passages kept so far, and whether another is nearly one of them."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._kept: list[frozenset[int]] = []
        self._by_hash: dict[int, list[int]] = {}

    def add(self, text: str) -> None:
        grams = shingles(text)
        for one in nsmallest(_SKETCH, grams):
            self._by_hash.setdefault(one, []).append(len(self._kept))
        self._kept.append(grams)

    def like(self, text: str) -> int | None:
        """Number of the first one kept that is as alike as the threshold; None where none is.

        Only those that share one of their `_SKETCH` smallest hashes are compared (Broder's bottom sketch): of texts
        that are half alike, 1 in 60,000 pairs shares none.
        """
        grams = shingles(text)
        places = {place for one in nsmallest(_SKETCH, grams) for place in self._by_hash.get(one, ())}
        return next((i for i in sorted(places) if alike(grams, self._kept[i]) >= self._threshold), None)


def marginal(scores: Sequence[float], vectors: NDArray[np.float32], count: int, relevance: float) -> list[int]:
    """Places of the `count` passages chosen one by one by maximal marginal relevance, in the order chosen.

    The next one has the highest `relevance` x score - (1 - `relevance`) x cosine to the nearest one chosen before
    (Carbonell and Goldstein 1998).

    Args:
        vectors: [n, dimensions] of unit length.
    """
    left = np.asarray(scores, np.float64) * relevance
    nearest = np.full(len(scores), 0.0)
    chosen: list[int] = []
    for _ in range(min(count, len(scores))):
        gain = left - (1 - relevance) * nearest
        gain[chosen] = -np.inf
        best = int(gain.argmax())
        chosen.append(best)
        similar = vectors @ vectors[best]
        nearest = np.maximum(nearest, similar) if len(chosen) > 1 else similar
    return chosen
