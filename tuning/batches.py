"""Rows into steps, and steps into forward passes with little padding."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tuning.examples import Example

Step = tuple[tuple[int, ...], ...]
"""The forward passes of one optimizer step; each holds indices of examples."""

_POOL = 32
"""Steps whose rows are sorted together: wide enough that lengths meet, narrow enough that an epoch stays shuffled."""


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
    """The steps of one epoch: every row once, rows of like length together, in an order fixed by `seed` and `epoch`.

    Args:
        lengths: tokens of each example that its forward pass computes.
        batch_rows: rows a step; the last step may have fewer.
        batch_tokens: most tokens of one forward pass, padding counted; a row longer than that has one for itself.
    """
    rng = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    rng.shuffle(order)
    steps = []
    for start in range(0, len(order), _POOL * batch_rows):
        pool = sorted(order[start : start + _POOL * batch_rows], key=lambda i: lengths[i])
        steps += [pool[i : i + batch_rows] for i in range(0, len(pool), batch_rows)]
    rng.shuffle(steps)
    return [split(step, lengths, batch_tokens) for step in steps]


def split(rows: Sequence[int], lengths: Sequence[int], batch_tokens: int) -> Step:
    """`rows`, sorted by length, cut where the next row would not fit."""
    parts: list[list[int]] = []
    for row in sorted(rows, key=lambda i: lengths[i]):
        if parts and lengths[row] * (len(parts[-1]) + 1) <= batch_tokens:
            parts[-1].append(row)
        else:
            parts.append([row])
    return tuple(tuple(part) for part in parts)
