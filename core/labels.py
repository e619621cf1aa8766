"""Whether the answers of a data set form a closed set of labels, so that a classifier can give them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

from core.label_lists import label_parts
from core.rows import Row

MAX_LABELS = 200
MIN_ROWS_PER_LABEL = 3.0
"""Mean over the labels. Under it, a data set of short free answers looks like one of labels."""
MAX_WORDS = 5
MAX_CHARACTERS = 60
MAX_NUMBERS = 10
"""Ratings from 0 to 9 are labels; more different numbers than that are results of some reckoning."""

_NUMBER = re.compile(r"[^\w]*[-+]?\d[\d,. ]*\s*%?[^\w]*")


def head_task(rows: Sequence[Row]) -> Literal["single", "multi"] | None:
    """What a classifier would be asked for these rows: one label, several (lists of recurring labels), or nothing.

    Lists written as JSON are left to a language model: a classifier writes labels side by side.
    """
    outputs = [row.output for row in rows if row.answers]
    if not any(output.startswith("[") for output in outputs) and label_parts(outputs) is not None:
        return "multi"
    return None if closed_labels(rows) is None else "single"


def closed_labels(rows: Iterable[Row]) -> tuple[str, ...] | None:
    """The labels, sorted, when the gold answers are a closed set; else None.

    Closed means: 2 to 200 distinct answers, each one line of at most 5 words and 60 characters, 3 rows or more a
    label on average, one gold answer a row, and no more than 10 distinct numbers among them. Numbers are the
    trap: the answers of 1,000 sums repeat like labels, but a classifier cannot reckon.
    """
    counts: Counter[str] = Counter()
    for row in rows:
        if not row.answers:
            continue
        if len(row.answers) > 1 or not _short(row.answers[0]):
            return None
        counts[row.answers[0]] += 1
    if not 2 <= len(counts) <= MAX_LABELS or counts.total() < MIN_ROWS_PER_LABEL * len(counts):
        return None
    if sum(_NUMBER.fullmatch(label) is not None for label in counts) > MAX_NUMBERS:
        return None
    return tuple(sorted(counts))


def are_numbers(rows: Sequence[Row]) -> bool:
    """Whether every answer is a number, units and signs aside."""
    answers = [answer for row in rows for answer in row.answers]
    return bool(answers) and all(_NUMBER.fullmatch(answer) for answer in answers)


def _short(answer: str) -> bool:
    return len(answer) <= MAX_CHARACTERS and "\n" not in answer and len(answer.split()) <= MAX_WORDS
