"""Answers that list several labels: what labels they are made of, and how they are written."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence

from core.text import tokens

MAX_LABELS, MAX_LABEL_TOKENS, MAX_LIST_CHARS = 200, 6, 300
"""Above these, lists are prose."""

_MARK = re.compile(r"\s*[,;\n|、，；]\s*")
_SEPARATOR = re.compile(rf"{_MARK.pattern}|\s+(?:and|y|和)\s+")


def listed(answer: str) -> list[str]:
    """The labels between commas, semicolons, bars or lines; `and` may be a part of one."""
    return [part for part in (piece.strip() for piece in _MARK.split(answer)) if part]


def separator(answers: Sequence[str]) -> str:
    """What most often stands between two labels of `answers`; ", " where nothing does."""
    marks = Counter(mark for answer in answers for mark in _MARK.findall(answer.strip()))
    return marks.most_common(1)[0][0] if marks else ", "


def split_labels(text: str) -> list[str]:
    """The parts of a list of labels, written as JSON or with separators, without quotes and brackets around them."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    items = [str(item) for item in value] if isinstance(value, list) else _SEPARATOR.split(text.strip())
    parts = (item.strip().strip("[](){}'\"`*.-• ").strip() for item in items)
    return [part for part in parts if part]


def label_parts(golds: Sequence[str]) -> list[str] | None:
    """The labels that gold answers which are lists of labels are made of, sorted; None when they are no such lists.

    They are when a tenth or more of them have several parts, nearly all parts recur, and most of the parts stand in
    different company: "Lima, Peru" is one name, and "yes, definitely" one label.
    """
    if not golds or any(len(gold) > MAX_LIST_CHARS for gold in golds):
        return None
    lists = [tuple(split_labels(gold)) for gold in golds]
    parts = Counter(part for labels in lists for part in labels)
    several = sum(len(labels) > 1 for labels in lists)
    often = sum(count for count in parts.values() if count >= 3)
    if several < 0.1 * len(lists) or len(parts) > MAX_LABELS or often < 0.95 * parts.total():
        return None
    company = Counter(part for labels in set(lists) for part in labels)
    mixed = sum(count >= 2 for count in company.values())
    if len(parts) < 3 or mixed <= 0.5 * len(parts) or max(len(tokens(part)) for part in parts) > MAX_LABEL_TOKENS:
        return None
    return sorted(parts)
