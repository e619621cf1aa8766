"""The documents against the eval set: does each gold answer occur in them, and do the questions stand there too?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from core.rows import Row
from core.text import content_tokens

HEAD = 3
"""Tokens that a run is looked up by."""

MIN_QUESTION_TOKENS = 5
"""A shorter question stands in documents by chance."""


class CorpusHits(NamedTuple):
    """Ids of eval rows."""

    without_answer: list[str]
    """Answerable rows none of whose gold answers stands in any document."""
    with_question: list[str]
    """Rows whose question stands in a document together with a gold answer."""


def search_corpus(rows: Sequence[Row], documents: Iterable[tuple[str, str]]) -> CorpusHits:
    """What of `rows` stands in `documents`, (id, text) pairs, in normal form and at word boundaries."""
    questions = {row.id: tuple(content_tokens(row.input)) for row in rows}
    golds = {row.id: [tuple(content_tokens(gold)) for gold in row.answers] for row in rows if row.answerable}
    runs = {gold for options in golds.values() for gold in options if gold}
    runs |= {question for question in questions.values() if len(question) >= MIN_QUESTION_TOKENS}
    heads: dict[tuple[str, ...], list[tuple[str, ...]]] = defaultdict(list)
    for run in runs:
        heads[run[:HEAD]].append(run)
    places: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for document, text in documents:
        for run in _standing(content_tokens(text), heads):
            places[run].add(document)
    without, leaked = [], []
    for row in rows:
        if row.id not in golds or not golds[row.id]:
            continue
        held: set[str] = set().union(*(places.get(gold, set()) for gold in golds[row.id]))
        if not held:
            without.append(row.id)
        elif held & places.get(questions[row.id], set()):
            leaked.append(row.id)
    return CorpusHits(without, leaked)


def _standing(found: Sequence[str], heads: dict[tuple[str, ...], list[tuple[str, ...]]]) -> set[tuple[str, ...]]:
    """The runs that stand in the tokens `found`."""
    held: set[tuple[str, ...]] = set()
    words = tuple(found)
    for at in range(len(words)):
        for size in range(1, HEAD + 1):
            for run in heads.get(words[at : at + size], ()):
                # A head shorter than HEAD is the whole run.
                if words[at : at + len(run)] == run:
                    held.add(run)
    return held
