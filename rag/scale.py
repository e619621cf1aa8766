"""What a cosine is worth in one index: models differ in how near to each other they put texts that have nothing in common."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rag.embedding import Vectors

SAMPLE = 4096
"""Passages that the scale is measured on."""

LEAST_SPREAD = 0.02
"""Of an index whose passages all say the same; else nothing would be near or far in it."""


class Scale(NamedTuple):
    """Cosines of an index's passages among each other."""

    centre: Vectors
    """(dimensions,) mean of the passages: a text's cosines with all of them are its product with this, on average."""
    spread: float
    """Standard deviation of the cosines of one passage with the others, on average over passages."""

    def standard(self, cosines: Vectors, query: Vectors) -> Vectors:
        """How many spreads each of `cosines` with the vector `query` is above its mean with all passages."""
        return np.asarray((cosines - float(query @ self.centre)) / self.spread, np.float32)


def measured(vectors: Vectors) -> Scale:
    """The scale of an index with these vectors (passages, dimensions), from at most `SAMPLE` of them."""
    sample = np.asarray(vectors[:: max(1, len(vectors) // SAMPLE)][:SAMPLE], np.float32)
    centre = sample.mean(0)
    off = sample - centre
    # The mean over p of Var(p . x) is the mean of p' C p = the sum over all entries of M * C, M being the mean of p p'.
    covariance = off.T @ off / len(sample)
    second = sample.T @ sample / len(sample)
    return Scale(centre, max(LEAST_SPREAD, float(np.sqrt((second * covariance).sum()))))
