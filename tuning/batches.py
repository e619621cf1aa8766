"""Rows into steps, and steps into forward passes."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tuning.examples import Example


def shared_prefix(examples: Sequence[Example]) -> int:
    """Tokens with which every example begins: system prompt and template head.

    Always less than the shortest prompt, so that each row keeps a token of its own to predict from.
    """
    limit = min(example.prompt for example in examples) - 1
    first = examples[0].ids
    for example in examples[1:]:
        common = 0
        while common < limit and example.ids[common] == first[common]:
            common += 1
        limit = common
    return max(limit, 0)


def plan_epoch(rows: int, batch_rows: int, seed: int, epoch: int) -> list[list[int]]:
    """The rows of each step of one epoch: every one of `rows` once, in an order fixed by `seed` and `epoch`.

    Args:
        batch_rows: rows a step; the last step may have fewer.
    """
    order = random.Random(f"{seed}/{epoch}").sample(range(rows), rows)
    return [order[i : i + batch_rows] for i in range(0, rows, batch_rows)]


def split(rows: Sequence[int], lengths: Sequence[int], batch_tokens: int) -> tuple[tuple[int, ...], ...]:
    """Forward passes: `rows` in their order, cut where the next one would take a pass over `batch_tokens`; a longer row stands alone."""
    passes: list[list[int]] = []
    filled = 0
    for row in rows:
        if passes and filled + lengths[row] <= batch_tokens:
            passes[-1].append(row)
            filled += lengths[row]
        else:
            passes.append([row])
            filled = lengths[row]
    return tuple(tuple(rows) for rows in passes)
