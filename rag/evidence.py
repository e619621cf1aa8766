"""Is the answer in the passages found at all? What a search's own scores say about it, before any model is asked.

It tells questions about other things from questions about the documents. It cannot tell a question whose subject is in
the documents and whose answer is not (SQuAD 2's unanswerable ones): docs/retrieval.md has both figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from core.types import Source

NOT_IN_DOCUMENTS = "The answer is not in the documents."
"""What is answered where the evidence does not suffice. `advisor.refusals` knows it for a refusal."""

THRESHOLD = 0.3
"""Least evidence with `abstain = true`; chosen on the dev questions of docs/retrieval.md."""


class _Fit(NamedTuple):
    """A logistic regression: dev questions of four sets over their own documents, against those over the others'."""

    nearness: float
    words: float
    constant: float


_OWN = _Fit(1.94, 25.8, -4.63)
_FOREIGN = _Fit(0.0, 25.8, -2.6)
"""Where the encoder's card names other languages than the documents': by words alone."""


def passage_evidence(nearness: float, words: float, passages: int, *, foreign: bool) -> float:
    """How likely it is, 0 to 1, that a passage so near to a question is about what it asks.

    Args:
        nearness: cosine by `rag.scale.Scale.standard`.
        words: its BM25 as a share of what the question's words could give.
        passages: how many there are. The nearest of many is near by chance: of n normal draws the highest is
            sqrt(2 ln n) deviations up, which is taken off.
    """
    fit = _FOREIGN if foreign else _OWN
    above_chance = nearness - math.sqrt(2 * math.log(max(2, passages)))
    logit = fit.nearness * above_chance + fit.words * words + fit.constant
    return 1 / (1 + math.exp(-max(-50.0, min(50.0, logit))))


def evidence(sources: Sequence[Source]) -> float:
    """The most that one of the passages gives; 0 without passages."""
    return max((float(source.metadata.get("evidence", 1.0)) for source in sources), default=0.0)


def insufficient(sources: Sequence[Source], abstain: bool | float) -> bool:
    """Whether the setting `abstain` (true, or the least evidence) says not to answer from these passages."""
    if abstain is False:
        return False
    return evidence(sources) < (THRESHOLD if abstain is True else abstain)
