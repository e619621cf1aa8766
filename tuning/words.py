"""What a text's words say of its label: naive Bayes beside a head on a sentence encoder.

An encoder blurs what a single word settles ("top-up" against "transfer"), and words alone miss paraphrases: their log
odds together are better than either (on BANKING77, cross-validated, 92.6 % right beside 91.9, with a log loss of .254
beside .288), for a second of fitting. Both are linear, so one set of weights a label serves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

SMOOTHING = 0.02
"""Added to each word's count under each label (Lidstone)."""
COLUMNS = 2**18


@dataclass(frozen=True)
class Words:
    """Naive Bayes over the single words and pairs of neighbours that training rows held."""

    columns: NDArray[np.int64]
    """[words], rising: their hashes."""
    idf: NDArray[np.float32]
    """[words], smoothed inverse document frequency."""
    weight: NDArray[np.float16]
    """[labels, words]: log P(word | label), less its mean over the labels."""
    share: float = 1.0
    """What the log odds are multiplied by beside the encoder's; words are not independent, so theirs are too sure."""

    def logits(self, counts: Any) -> NDArray[np.float64]:
        """[texts, labels] of `count_words`, to be added to the head's."""
        found = _weighted(counts[:, self.columns], self.idf) @ self.weight.T.astype(np.float64)
        return np.asarray(self.share * found)

    def at(self, share: float) -> Words:
        return replace(self, share=share)


def fit_words(counts: Any, y: NDArray[np.int64], labels: int) -> Words:
    """Naive Bayes with equal priors (the head beside it has them) over tf-idf weights (Rennie 2003, section 4).

    Args:
        counts: `count_words` of the texts.
        y: [texts], label of each, from 0.
        labels: how many there are; one without a row gets the evidence of none.
    """
    columns = np.unique(counts.indices).astype(np.int64)
    counts = counts[:, columns]
    idf = (np.log((1 + len(y)) / (1 + np.diff(counts.tocsc().indptr))) + 1).astype(np.float32)
    one_hot = np.zeros((labels, len(y)), dtype=np.float32)
    one_hot[y, np.arange(len(y))] = 1
    sums = one_hot @ _weighted(counts, idf) + SMOOTHING
    logs = np.log(sums / sums.sum(axis=1, keepdims=True))
    # safetensors writes the bytes as they lie, whatever the strides.
    return Words(columns, idf, np.ascontiguousarray(logs - logs.mean(axis=0), dtype=np.float16))


def count_words(texts: Sequence[str]) -> Any:
    """How often each text has each word and pair of neighbours: sparse [texts, COLUMNS], by hash. Chinese characters count as words: nothing stands between them."""
    from sklearn.feature_extraction.text import HashingVectorizer

    vectorizer = HashingVectorizer(
        ngram_range=(1, 2),
        n_features=COLUMNS,
        alternate_sign=False,
        norm=None,
        token_pattern=r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+",
    )
    return vectorizer.transform(texts)


def _weighted(counts: Any, idf: NDArray[np.float32]) -> Any:
    """(1 + log count) idf, each row of length 1."""
    from sklearn.preprocessing import normalize

    found = counts.astype(np.float64)
    found.data = 1 + np.log(found.data)
    return normalize(found.multiply(idf[None, :]).tocsr())
