"""Late interaction: the best passages compared with the question token by token, by the embedding model itself.

ColBERT's MaxSim (Khattab and Zaharia 2020) over the token vectors of an encoder that was trained to be averaged: each
token of the question meets its nearest token of the passage. It costs one pass of the encoder over the passages read,
and no other model; a passage read lately is not read again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from core.errors import ConfigError
from rag.embedding import Encoder, TokenEncoder, Vectors

NAME = "late"
"""What `rerank_model` names it by."""

WEIGHT = 1.5
"""Of one standard deviation of MaxSim over the passages read, in a convex score's units; see docs/retrieval.md."""

_STEADY = 0.01
"""Added to that deviation: passages that are all alike are not told apart by noise."""

CACHE_BYTES = 64 * 2**20


class LateInteraction:
    """Token vectors of the passages of one index, computed when first read. Thread-safe."""

    def __init__(self, encoder: Encoder) -> None:
        """
        Raises:
            ConfigError: the embedding model gives no token vectors.
        """
        if not isinstance(encoder, TokenEncoder):
            raise ConfigError(
                f"rerank_model = {NAME!r} needs the tokens' vectors, which the embedding model {encoder.name!r} does"
                " not give; name a cross-encoder, or none"
            )
        self._encoder: TokenEncoder = encoder
        self._kept: OrderedDict[int, NDArray[np.float16]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def scores(self, text: str, rows: Sequence[int], texts: Sequence[str]) -> NDArray[np.float32]:
        """MaxSim of each passage: the mean over the question's tokens of the cosine to the nearest of its tokens.

        Args:
            rows: numbers of the passages in the index; what was computed for one is kept by it.
        """
        (question,) = self._encoder.token_vectors([text], query=True)
        return np.array([_max_sim(question, tokens) for tokens in self._tokens(rows, texts)], np.float32)

    def _tokens(self, rows: Sequence[int], texts: Sequence[str]) -> list[Vectors]:
        with self._lock:
            known = {row: self._kept[row] for row in rows if row in self._kept}
            for row in known:
                self._kept.move_to_end(row)
        missing = [i for i, row in enumerate(rows) if row not in known]
        if missing:
            computed = self._encoder.token_vectors([texts[i] for i in missing], query=False)
            new = {rows[i]: tokens.astype(np.float16) for i, tokens in zip(missing, computed, strict=True)}
            known |= new
            self._keep(new)
        return [known[row].astype(np.float32) for row in rows]

    def _keep(self, new: dict[int, NDArray[np.float16]]) -> None:
        with self._lock:
            for row, tokens in new.items():
                if row not in self._kept:
                    self._kept[row] = tokens
                    self._bytes += tokens.nbytes
            while self._bytes > CACHE_BYTES:
                _, dropped = self._kept.popitem(last=False)
                self._bytes -= dropped.nbytes


def standing(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """What late interaction adds to each passage's score: `WEIGHT` standard deviations from the mean of those read."""
    return np.asarray(WEIGHT * (scores - scores.mean()) / (scores.std() + _STEADY), np.float32)


def _max_sim(question: Vectors, passage: Vectors) -> float:
    if not len(question) or not len(passage):
        return 0.0
    return float((question @ passage.T).max(axis=1).mean())
