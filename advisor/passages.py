"""The passages that the arms put in front of the model: gold with distractors, retrieved, or plausible but wrong."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence, Set
from dataclasses import replace
from typing import NamedTuple, Protocol

from core.rows import Row
from core.text import contains
from core.types import Source

POOL = 20
"""Passages looked at per question for distractors and for a proxy gold passage."""


class Retrieves(Protocol):
    """What this file asks of a retriever."""

    def search(self, texts: Sequence[str], top_k: int) -> list[list[Source]]: ...

    def documents(self, ids: Sequence[str], text: str | None = None) -> list[Source]: ...

    @property
    def document_ids(self) -> Sequence[str]: ...

    def texts(self) -> Iterator[tuple[str, str]]: ...


class OraclePassages(NamedTuple):
    per_row: list[list[Source]]
    """Gold and distractors, shuffled, numbered from 1; without any gold the distractors alone."""
    marked: int
    """Rows whose gold passage the data marks."""
    proxy: int
    """Rows for which a retrieved passage that holds the gold answer stands in."""

    @property
    def missing(self) -> int:
        """Rows without any passage that holds the answer."""
        return len(self.per_row) - self.marked - self.proxy


def oracle_passages(rows: Sequence[Row], retriever: Retrieves | None, top_k: int, seed: int) -> OraclePassages:
    """Gold passage(s) and the retriever's best wrong ones, `top_k` in all, in an order that gives nothing away."""
    pools = retriever.search([row.input for row in rows], POOL) if retriever is not None else [[] for _ in rows]
    known = frozenset(retriever.document_ids) if retriever is not None else frozenset()
    per_row, marked, proxy = [], 0, 0
    for row, pool in zip(rows, pools, strict=True):
        gold = _gold(row, retriever, known)
        if gold:
            marked += 1
        else:
            gold = [source for source in pool if holds_answer(source.text, row)][:1]
            proxy += bool(gold)
        ids = {source.document_id for source in gold}
        others = [s for s in pool if s.document_id not in ids and not (gold and holds_answer(s.text, row))]
        chosen = [*gold, *others[: max(0, top_k - len(gold))]]
        random.Random(f"{seed}/{row.id}").shuffle(chosen)
        per_row.append(numbered(chosen))
    return OraclePassages(per_row, marked, proxy)


def wrong_passages(rows: Sequence[Row], retriever: Retrieves, top_k: int) -> list[list[Source]]:
    """The best-matching passages that lack the answer: what a retriever's miss looks like."""
    chosen = []
    for row, pool in zip(rows, retriever.search([row.input for row in rows], POOL), strict=True):
        gold = set(row.context_ids)
        wrong = [s for s in pool if s.document_id not in gold and not holds_answer(s.text, row)]
        chosen.append(numbered(wrong[:top_k]))
    return chosen


def holds_answer(text: str, row: Row) -> bool:
    """Whether one of the row's gold answers stands in `text`, normalised."""
    return any(contains(text, answer) for answer in row.answers)


def numbered(sources: Sequence[Source]) -> list[Source]:
    return [replace(source, number=i) for i, source in enumerate(sources, start=1)]


def _gold(row: Row, retriever: Retrieves | None, known: Set[str]) -> list[Source]:
    """The passages that the row marks; one that is not among the documents cannot be shown."""
    if row.context:
        return [Source(i, f"{row.id}/{i}", "", text, 1.0) for i, text in enumerate(row.context, start=1)]
    ids = [id for id in row.context_ids if id in known]
    return retriever.documents(ids, row.input) if ids and retriever is not None else []
