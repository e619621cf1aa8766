"""Rows into steps, and steps into forward passes."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tuning.examples import Example

Step = tuple[tuple[int, ...], ...]
"""The forward passes of one optimizer step; each holds indices of examples."""


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


def plan_epoch(lengths: Sequence[int], batch_rows: int, batch_tokens: int, seed: int, epoch: int) -> list[Step]:
    """The steps of one epoch: every row once, in an order fixed by `seed` and `epoch`.

    Args:
        lengths: tokens that each example adds to a forward pass.
        batch_rows: rows a step; the last step may have fewer.
        batch_tokens: see `split`.
    """
    order = random.Random(f"{seed}/{epoch}").sample(range(len(lengths)), len(lengths))
    return [split(order[i : i + batch_rows], lengths, batch_tokens) for i in range(0, len(order), batch_rows)]


def split(rows: Sequence[int], lengths: Sequence[int], batch_tokens: int) -> Step:
    """`rows` in their order, cut where the next one would take a pass over `batch_tokens`; a longer row stands alone."""
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
