"""The passages nearest to a text by cosine, where only some may be found."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rag.embedding import Vectors
from rag.fusion import Hits, ranked
from rag.store import Store

Allowed = NDArray[np.bool_] | None
"""(passages,) which rows a search may return; None: all."""

_BLOCK = 1 << 16


def nearest(store: Store, vectors: Vectors, asked: Vectors, k: int, allowed: Allowed) -> list[Hits]:
    """The `k` rows nearest to each vector of `asked`; `vectors` are those of `store`, by row."""
    if allowed is None:
        return store.search(asked, k)
    share = float(allowed.mean()) if allowed.size else 0.0
    if share > 0.5:
        hits = [_passing(one, allowed, k) for one in store.search(asked, 3 * k)]
        if all(len(one.rows) == min(k, int(allowed.sum())) for one in hits):
            return hits
    # Chroma filters by walking its graph, and misses rows where few pass; looking at each misses none.
    rows = np.flatnonzero(allowed)
    cosines = np.concatenate([vectors[rows[at : at + _BLOCK]] @ asked.T for at in range(0, max(1, len(rows)), _BLOCK)])
    return [_nearest(rows, column, k) for column in cosines.T]


def _passing(hits: Hits, allowed: NDArray[np.bool_], k: int) -> Hits:
    """The first `k` of `hits` that are allowed."""
    kept = [(row, score) for row, score in zip(*hits, strict=True) if allowed[row]][:k]
    return Hits([row for row, _ in kept], [score for _, score in kept])


def _nearest(rows: NDArray[np.int64], cosines: NDArray[np.float32], k: int) -> Hits:
    top = np.argpartition(-cosines, k)[:k] if k < len(rows) else np.arange(len(rows))
    return ranked(rows[top], cosines[top])
