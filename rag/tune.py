"""Which search settings suit a use case, by its own questions and without a model: chosen on half, judged on the other.

The questions are split by their right documents, so that no document's questions stand on both sides. On the dev half
every candidate is scored, and the best by nDCG@10 within the latency budget is chosen. The test half judges that one
choice against the settings in force; what was tried on dev cannot make it look good there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np

from core.errors import DataError
from core.search_settings import SearchSettings
from core.stats import Estimate, paired_bootstrap, paired_p, share
from rag.embedding import Vectors
from rag.evaluate import Judged, Scored, latency_ms, ranked_documents, scored
from rag.metrics import recall
from rag.retrieve import Retriever

METRIC = "ndcg@10"
WEIGHTS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9)
TOP_KS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20)
RECALL_LOSS = 0.01
"""`top_k` is the smallest whose dev recall is this near to that of the largest: every passage more costs prompt tokens."""

DEPTH = 40
"""Passages looked at: enough for 10 to 20 documents where long ones give several."""

FEWEST = 20
"""Questions in each half, below which nothing is chosen."""

ALPHA = 0.05
LATENCY_QUERIES = 40


@dataclass(frozen=True)
class Tried:
    """One candidate on the dev half."""

    settings: SearchSettings
    score: float
    p95_ms: float | None
    """None: not measured, since better ones were within the budget."""


@dataclass(frozen=True)
class Tuning:
    """What was found. `kept` is the settings to go on with."""

    dev: int
    test: int
    current: SearchSettings
    best: SearchSettings
    kept: SearchSettings
    why: str
    current_score: Estimate
    """On the test half, as all below."""
    best_score: Estimate
    difference: Estimate
    p: float
    current_p95_ms: float
    best_p95_ms: float
    current_top_k: int
    top_k: int
    recall_current_top_k: Estimate
    recall_top_k: Estimate
    tried: list[Tried]
    """Best first."""


def candidates(current: SearchSettings, rerank_model: str | None = None) -> Iterator[SearchSettings]:
    """Settings to try, the current ones first: weights of the convex sum, reciprocal ranks, one search alone, depth.

    Each without a reranker, and with the one declared or given. Chunks are as they were cut: other ones take another
    ingest.
    """
    seen = {current}
    yield current
    for model in dict.fromkeys((None, current.rerank_model, rerank_model)):
        base = current.model_copy(update={"rerank_model": model, "mmr": None, "min_score": None})
        changes: list[dict[str, Any]] = [{"method": "dense"}, {"method": "lexical"}, {"dense_weight": None}]
        changes += [{"dense_weight": weight} for weight in WEIGHTS]
        changes += [{"fusion": "rrf", "dense_weight": weight} for weight in (0.3, 0.5, 0.7)]
        changes += [{"candidates": count} for count in (30, 300)]
        for change in changes:
            fused = {"method": "hybrid", "fusion": "convex", "candidates": 100, "dense_weight": None}
            one = base.model_copy(update={**fused, **change})
            if one not in seen:
                seen.add(one)
                yield one


def halves(judged: Sequence[Judged], seed: int) -> tuple[list[Judged], list[Judged]]:
    """(dev, test): questions that share a right document stand in the same half.

    Raises:
        DataError: a half would hold too few to choose by.
    """
    groups: dict[str, list[Judged]] = {}
    for one in judged:
        first = min(id for id, grade in one.grades.items() if grade > 0)
        groups.setdefault(first, []).append(one)
    order = sorted(groups, key=lambda id: sha256(f"{seed}/{id}".encode()).digest())
    dev: list[Judged] = []
    test: list[Judged] = []
    for id in order:
        (dev if len(dev) <= len(test) else test).extend(groups[id])
    if min(len(dev), len(test)) < FEWEST:
        raise DataError(
            f"{len(judged)} questions with marked documents, {len(groups)} different ones: too few to choose and to"
            f" judge by; it takes at least {2 * FEWEST} over several documents"
        )
    return dev, test


def tune(
    retriever: Retriever,
    judged: Sequence[Judged],
    top_k: int,
    budget_ms: float | None = None,
    seed: int = 0,
    rerank_model: str | None = None,
    tick: Callable[[int], None] = lambda n: None,
) -> Tuning:
    """The best settings for `judged`, and whether they are shown to beat the retriever's own.

    Kept are the current settings unless the choice is better on the test half (sign-flip p below 0.05), or the current
    ones are over the budget and the choice is within.

    Args:
        budget_ms: most milliseconds at p95, the query's embedding included.
        rerank_model: a cross-encoder to try, beside the one in force.
        tick: called with 1 after each candidate.

    Raises:
        DataError: too few questions.
    """
    dev, test = halves(judged, seed)
    bench = _Bench(retriever, dev)
    current = retriever.settings
    tried = []
    for settings in candidates(current, rerank_model):
        tried.append(Tried(settings, float(np.mean([q.scores[METRIC] for q in bench.scored(settings)])), None))
        tick(1)
    # Stable: of equals the one tried first, and the current settings are tried first of all.
    tried.sort(key=lambda one: -one.score)
    tried, best = _fastest_allowed(tried, bench, budget_ms)
    current_p95 = bench.p95_ms(current)
    best_p95 = current_p95 if best == current else bench.p95_ms(best)
    judge = _Bench(retriever, test)
    now, then = judge.scored(current), judge.scored(best)
    a, b = [q.scores[METRIC] for q in then], [q.scores[METRIC] for q in now]
    difference, p = paired_bootstrap(a, b), paired_p(a, b)
    kept, why = _decide(current, best, difference, p, current_p95, best_p95, budget_ms)
    chosen_k = _top_k(bench.rankings(kept), dev)
    return Tuning(
        dev=len(dev),
        test=len(test),
        current=current,
        best=best,
        kept=kept,
        why=why,
        current_score=share(b),
        best_score=share(a),
        difference=difference,
        p=p,
        current_p95_ms=current_p95,
        best_p95_ms=best_p95,
        current_top_k=top_k,
        top_k=chosen_k,
        recall_current_top_k=_recall(judge.rankings(kept), test, top_k),
        recall_top_k=_recall(judge.rankings(kept), test, chosen_k),
        tried=tried,
    )


class _Bench:
    """Questions whose embeddings are computed once."""

    def __init__(self, retriever: Retriever, judged: Sequence[Judged]) -> None:
        self._retriever = retriever
        self._judged = judged
        self._texts = [row.input for row, _ in judged]
        self._vectors: Vectors = retriever.embed(self._texts)
        self._found: dict[SearchSettings, list[Scored]] = {}

    def scored(self, settings: SearchSettings) -> list[Scored]:
        if settings not in self._found:
            found = self._retriever.search_vectors(self._texts, self._vectors, DEPTH, settings)
            self._found[settings] = scored(self._judged, found)
        return self._found[settings]

    def rankings(self, settings: SearchSettings) -> list[list[tuple[str, ...]]]:
        """For each question the documents of each passage, best passage first."""
        found = self._retriever.search_vectors(self._texts, self._vectors, max(TOP_KS), settings)
        return [[ranked_documents([source]) for source in sources] for sources in found]

    def p95_ms(self, settings: SearchSettings) -> float:
        return latency_ms(self._retriever.using(settings).search, self._texts, LATENCY_QUERIES)[1]


def _fastest_allowed(tried: list[Tried], bench: _Bench, budget_ms: float | None) -> tuple[list[Tried], SearchSettings]:
    """The best candidate within the budget; `tried` with the latencies that were measured to find it.

    Raises:
        DataError: none is within.
    """
    if budget_ms is None:
        return tried, tried[0].settings
    measured: list[Tried] = []
    for i, one in enumerate(tried):
        p95 = bench.p95_ms(one.settings)
        measured.append(Tried(one.settings, one.score, p95))
        if p95 <= budget_ms:
            return [*measured, *tried[i + 1 :]], one.settings
    fastest = min(one.p95_ms for one in measured if one.p95_ms is not None)
    raise DataError(f"no search is within {budget_ms:g} ms at p95; the fastest tried takes {fastest:.1f} ms")


def _decide(
    current: SearchSettings,
    best: SearchSettings,
    difference: Estimate,
    p: float,
    current_p95: float,
    best_p95: float,
    budget_ms: float | None,
) -> tuple[SearchSettings, str]:
    if best == current:
        return current, "no other settings are better on the dev half"
    if budget_ms is not None and current_p95 > budget_ms >= best_p95:
        return best, f"the current settings take {current_p95:.1f} ms at p95, over the budget of {budget_ms:g} ms"
    if p < ALPHA and difference.value > 0:
        return best, f"better on the test half (p = {p:.2g})"
    return current, f"the best of the dev half is not shown to be better on the test half (p = {p:.2g})"


def _top_k(rankings: Sequence[Sequence[Sequence[str]]], judged: Sequence[Judged]) -> int:
    most = _recall(rankings, judged, max(TOP_KS)).value
    return next(k for k in TOP_KS if _recall(rankings, judged, k).value >= most - RECALL_LOSS)


def _recall(rankings: Sequence[Sequence[Sequence[str]]], judged: Sequence[Judged], k: int) -> Estimate:
    """Share of the relevant documents that the first `k` passages hold."""
    return share(
        [
            recall([id for passage in passages[:k] for id in passage], one.grades, len(passages) * 1000)
            for passages, one in zip(rankings, judged, strict=True)
        ]
    )
