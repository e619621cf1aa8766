"""How well an index finds the passages marked as right: pure of the command line, for advise and benchmarks too."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from core.errors import DataError
from core.rows import Row
from core.stats import Estimate, paired_bootstrap, paired_p, share
from core.types import Source
from rag.metrics import Qrels, ndcg, recall, reciprocal_rank

DEPTH = 100
"""Documents ranked for each query: MRR looks this deep."""

LATENCY_QUERIES = 100

Search = Callable[[Sequence[str], int], list[list[Source]]]
"""`Retriever.search`."""


@dataclass(frozen=True)
class Scored:
    """One query's outcome."""

    id: str
    ranking: tuple[str, ...]
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Evaluation:
    queries: list[Scored]
    metrics: dict[str, Estimate]
    without_gold: int
    """Rows with no relevant document marked: not scored."""
    unknown_gold: int
    """Relevant documents that are not in the index: no retriever can find them, and they count as missed."""
    latency_p50_ms: float
    latency_p95_ms: float


class Judged(NamedTuple):
    """A question and the grades of its relevant documents."""

    row: Row
    grades: Mapping[str, int]


def judged_rows(rows: Sequence[Row], qrels: Qrels | None) -> list[Judged]:
    """The rows that have relevant documents: by `qrels` where given, else by their `context_ids`.

    Raises:
        DataError: no row has any.
    """
    judged = []
    for row in rows:
        grades = qrels.get(row.id, {}) if qrels is not None else dict.fromkeys(row.context_ids, 1)
        if any(grade > 0 for grade in grades.values()):
            judged.append(Judged(row, grades))
    if not judged:
        source = "the qrels name none of its ids" if qrels is not None else "no row has `context_ids`"
        raise DataError(f"there is nothing to score: {source}; mark the right documents or give --qrels")
    return judged


def evaluate(search: Search, document_ids: Sequence[str], rows: Sequence[Row], qrels: Qrels | None) -> Evaluation:
    """Metrics over the rows that have relevant documents: by `qrels` where given, else by their `context_ids`.

    Raises:
        DataError: no row has any.
    """
    known = set(document_ids)
    wanted = judged_rows(rows, qrels)
    unknown = {id for _, grades in wanted for id, grade in grades.items() if grade > 0 and id not in known}
    texts = [row.input for row, _ in wanted]
    queries = scored(wanted, search(texts, DEPTH))
    metrics = {name: share([query.scores[name] for query in queries]) for name in queries[0].scores}
    p50, p95 = latency_ms(search, texts)
    return Evaluation(queries, metrics, len(rows) - len(wanted), len(unknown), p50, p95)


def scored(judged: Sequence[Judged], found: Sequence[Sequence[Source]]) -> list[Scored]:
    """Outcome of each query, given the passages found for it."""
    rankings = [ranked_documents(sources) for sources in found]
    return [
        Scored(row.id, ranking, scores(ranking, grades))
        for (row, grades), ranking in zip(judged, rankings, strict=True)
    ]


def compare(a: Evaluation, b: Evaluation) -> dict[str, tuple[Estimate, float]]:
    """Difference a - b of each metric over the same queries (paired bootstrap), and its p (sign-flip test)."""
    pairs = {}
    for name in a.metrics:
        first = [query.scores[name] for query in a.queries]
        second = [query.scores[name] for query in b.queries]
        pairs[name] = paired_bootstrap(first, second), paired_p(first, second)
    return pairs


def scores(ranking: Sequence[str], judged: Mapping[str, int]) -> dict[str, float]:
    return {
        "recall@1": recall(ranking, judged, 1),
        "recall@5": recall(ranking, judged, 5),
        "recall@10": recall(ranking, judged, 10),
        "mrr": reciprocal_rank(ranking, judged),
        "ndcg@10": ndcg(ranking, judged, 10),
    }


def ranked_documents(sources: Sequence[Source]) -> tuple[str, ...]:
    """Document ids in the order of their best passage; those that a passage stands for right after its own."""
    ids: dict[str, None] = {}
    for source in sources:
        others = (id for key in ("also_in", "similar_in") for id in str(source.metadata.get(key, "")).split("\n"))
        ids.update(dict.fromkeys([source.document_id, *filter(None, others)]))
    return tuple(ids)


def latency_ms(search: Search, texts: Sequence[str], queries: int = LATENCY_QUERIES) -> tuple[float, float]:
    """p50 and p95 of one query at a time, its embedding included, over `queries` of the texts."""
    some = texts[:: max(1, len(texts) // queries)][:queries]
    search(some[:1], 10)
    taken = []
    for text in some:
        start = time.perf_counter()
        search([text], 10)
        taken.append(1000 * (time.perf_counter() - start))
    p50, p95 = np.percentile(taken, [50, 95])
    return float(p50), float(p95)
