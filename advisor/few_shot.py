"""Demonstrations for the few-shot arms, from the training rows only."""

from __future__ import annotations

import random
from collections.abc import Sequence

from core.prompts import Demonstration
from core.rows import Row


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
