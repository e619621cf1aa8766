"""Which rows are trained on, which are held out, and what is odd about them."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from core.errors import DataError
from core.rows import Row
from core.types import Message

MIN_DEV_TOTAL = 20
"""With fewer rows none is held out: two dev rows decide nothing."""

T = TypeVar("T")


def usable_rows(rows: Sequence[Row], most: int | None, seed: int, source: Path | None) -> list[Row]:
    """The rows to train on, drawn by `seed` where there are more than `most`, in file order.

    Raises:
        DataError: fewer than two, or one without an answer.
    """
    if len(rows) < 2:
        count = "one training row" if rows else "no training rows"
        raise DataError(f"{count}; tuning needs two at the very least, and 50 to say anything", source)
    for row in rows:
        if not row.answers:
            raise DataError(f"row {row.id!r} has no answer to learn", source, row.line)
    if most is None or most >= len(rows):
        return list(rows)
    return [rows[i] for i in sorted(random.Random(seed).sample(range(len(rows)), most))]


def dev_split(examples: Sequence[T], share: float, most: int, seed: int) -> tuple[list[T], list[T]]:
    """(train, dev): at most `most` and about `share` of the examples held out, drawn by `seed`; none of under 20."""
    count = min(round(len(examples) * share), most)
    if len(examples) < MIN_DEV_TOTAL or count == 0:
        return list(examples), []
    dev = set(random.Random(seed).sample(range(len(examples)), count))
    return [e for i, e in enumerate(examples) if i not in dev], [examples[i] for i in sorted(dev)]


def conflicts(rows: Sequence[Row]) -> list[str]:
    """A warning where the same input is answered in two ways."""
    given: dict[tuple[Message, ...], set[str]] = defaultdict(set)
    for row in rows:
        given[row.messages].add(row.output)
    torn = [messages for messages, answers in given.items() if len(answers) > 1]
    if not torn:
        return []
    return [f"{_counted(len(torn), 'input has', 'inputs have')} two different answers: {torn[0][-1].content[:60]!r}"]


def rare_labels(answers: Sequence[str]) -> list[str]:
    """A warning where a label has a single row, which cannot be cross-validated."""
    single = sorted(label for label, n in Counter(answers).items() if n == 1)
    return [f"{_counted(len(single), 'label has', 'labels have')} one row only: {single[0]!r}"] if single else []


def conversations(rows: Sequence[Row]) -> list[str]:
    """A warning where a head, which reads the last user turn, does not see all of an input."""
    count = sum(sum(m.role == "user" for m in row.messages) > 1 for row in rows)
    if not count:
        return []
    return [
        f"{_counted(count, 'row is a conversation', 'rows are conversations')}; a head reads the last user turn only"
    ]


def _counted(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"
