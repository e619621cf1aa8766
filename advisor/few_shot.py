"""Demonstrations for the few-shot arms, from the training rows only: the same at random for all, or alike for each."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from advisor.overlap import Sketch, alike, sketch
from core.prompts import Demonstration
from core.rows import Row
from core.text import normalise

MOST_EXAMPLES = 10_000
"""Of the training rows, to choose from: embedding them takes some 2 ms each on two cores."""

SPARE = 12
"""Candidates looked at beyond those wanted, in place of near duplicates of the question."""


class Searchable(Protocol):
    """What this file asks of a `rag.demonstrations.Demonstrations`."""

    def nearest(self, texts: Sequence[str], k: int) -> list[list[Demonstration]]: ...


def demonstrations(train: Sequence[Row], k: int, seed: int, labels: bool) -> tuple[Demonstration, ...]:
    """`k` training rows as demonstrations: at random, with different outputs first where the outputs are labels.

    The shortest half is preferred, so that `k` demonstrations fit small contexts; the choice depends on the rows and
    the seed alone, and the first 3 of 8 are the 3 of 3.
    """
    order = sorted(train, key=lambda row: row.id)
    random.Random(seed).shuffle(order)
    middle = sorted(len(row.input) for row in order)[len(order) // 2]
    order.sort(key=lambda row: len(row.input) > middle)
    if labels:
        seen: dict[str, int] = {}
        ranks = []
        for row in order:
            ranks.append(seen.get(row.output, 0))
            seen[row.output] = ranks[-1] + 1
        order = [row for _, row in sorted(zip(ranks, order, strict=True), key=lambda pair: pair[0])]
    return tuple(Demonstration(row.input, row.output) for row in order[:k])


def examples(train: Sequence[Row], seed: int) -> list[Demonstration]:
    """The training rows that demonstrations by likeness are chosen from: all, or 10,000 of them at random."""
    order = sorted(train, key=lambda row: row.id)
    random.Random(seed).shuffle(order)
    return [Demonstration(row.input, row.output) for row in order[:MOST_EXAMPLES]]


def store_examples(
    home: Path, train: Sequence[Row], seed: int, embedding_model: str, models: Path
) -> tuple[str, Searchable]:
    """`examples` ready for search, and the name of their folder in `home`."""
    from rag.demonstrations import store_demonstrations

    return store_demonstrations(home, examples(train, seed), embedding_model, models)


def similar_demonstrations(store: Searchable, asked: Sequence[str], k: int) -> list[tuple[Demonstration, ...]]:
    """The `k` examples most like each question, the most alike last, next to the question.

    An example that is the question itself, or nearly (Jaccard >= .8), would give the gold answer away: it is left out.
    """
    found = store.nearest(asked, k + SPARE)
    return [tuple(reversed(_unlike(question, near)[:k])) for question, near in zip(asked, found, strict=True)]


def _unlike(question: str, near: Sequence[Demonstration]) -> list[Demonstration]:
    own = _sketch(question)
    return [example for example in near if not alike(own, _sketch(example.input))]


@lru_cache(maxsize=4096)
def _sketch(text: str) -> Sketch:
    return sketch(normalise(text))
