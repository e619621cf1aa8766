"""How well our own retriever finds the gold passages: the measured reason behind R."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from advisor.passages import Retrieves
from core.rows import Row
from core.stats import share


def retrieval_readiness(rows: Sequence[Row], retriever: Retrieves | None, top_k: int) -> dict[str, Any] | None:
    """Recall@k, MRR and nDCG of the index on the rows that mark their gold documents; None where none does.

    `in_prompt` is the share of items with a gold document among the `top_k` passages that are put into the prompt:
    where it is low the retriever is at fault, where it is high and answers are wrong the model is. `missed` are the items
    without one.
    """
    if retriever is None or not any(row.context_ids and row.answerable for row in rows):
        return None
    from rag.evaluate import evaluate

    marked = [row for row in rows if row.context_ids and row.answerable]
    found = evaluate(retriever.search, retriever.document_ids, marked, None)
    gold = {row.id: set(row.context_ids) for row in marked}
    shown = {query.id: bool(gold[query.id] & set(query.ranking[:top_k])) for query in found.queries}
    return {
        "n": len(found.queries),
        "without_gold": len(rows) - len(marked),
        "unknown_gold": found.unknown_gold,
        "top_k": top_k,
        "in_prompt": asdict(share([float(hit) for hit in shown.values()])),
        "missed": [item for item, hit in shown.items() if not hit],
        **{name: asdict(value) for name, value in found.metrics.items()},
        "latency_p50_ms": round(found.latency_p50_ms, 1),
        "latency_p95_ms": round(found.latency_p95_ms, 1),
    }
