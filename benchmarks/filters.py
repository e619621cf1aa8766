"""What filters cost a search, and what they lose: the parts of `benchmarks.ingest --only filters`.

Synthetic passages as in benchmarks/retrieval_latency.py, with metadata. Each filter is timed in a hybrid search, once it
has been used (its fields are read at first use: `first_ms`), and its dense search is compared with looking at every passage.
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from core.search_settings import SearchSettings
from rag.documents import Scalar
from rag.filters import Filter, narrowed, parse_filter

TOP_K = 10
TENANTS, YEARS = 20, 10


def _filters() -> dict[str, Filter | None]:
    """By name; the share that passes is in the result."""

    def condition(type: str, key: str, value: Any) -> dict[str, Any]:
        return {"type": type, "key": key, "value": value}

    recent, some = condition("gte", "year", 2020), condition("in", "tag", [f"t{n}" for n in range(0, 100, 3)])
    written = {
        "share below .001": condition("lt", "share", 0.001),
        "share below .01": condition("lt", "share", 0.01),
        "share below .1": condition("lt", "share", 0.1),
        "share below .5": condition("lt", "share", 0.5),
        "share below .9": condition("lt", "share", 0.9),
        "eq": condition("eq", "year", 2021),
        "in": some,
        "and": {"type": "and", "filters": [recent, some]},
        "or": {"type": "or", "filters": [recent, some]},
        "character span": condition("lt", "start", 1),
    }
    tenant = parse_filter(condition("in", "tenant", ["org3"]))
    filters: dict[str, Filter | None] = {"none": None, "tenant": tenant}
    filters |= {name: parse_filter(one) for name, one in written.items()}
    filters["tenant, and or"] = narrowed(tenant, filters["or"])
    return filters


def filtered(passages: int, questions: int) -> dict[str, Any]:
    """By filter: how many passages pass, milliseconds of a search, and the share of the true best that dense search finds."""
    rng = np.random.default_rng(1)
    metadata: list[dict[str, Scalar]] = [
        {
            "tenant": f"org{rng.integers(TENANTS)}",
            "year": 2015 + int(rng.integers(YEARS)),
            "tag": f"t{rng.integers(100)}",
            "share": float(rng.random()),
        }
        for _ in range(passages)
    ]
    with TemporaryDirectory() as folder:
        from benchmarks.retrieval_latency import synthetic

        made = synthetic(Path(folder), passages, questions, metadata)
        with made.retriever:
            by_filter = {name: _measured(made, filter) for name, filter in _filters().items()}
    return {"passages": passages, "questions": questions, "k": TOP_K, "by_filter": by_filter}


def _measured(made: Any, filter: Filter | None) -> dict[str, Any]:
    hybrid, dense = SearchSettings(), SearchSettings(method="dense", near_duplicates=1)
    first_ms, _ = _searched(made, 0, hybrid, filter)
    taken = [_searched(made, i, hybrid, filter)[0] for i in range(len(made.texts))]
    allowed = made.retriever._fields.allowed(filter)
    rows = np.arange(len(made.vectors)) if allowed is None else np.flatnonzero(allowed)
    hit = total = 0
    for i, vector in enumerate(made.asked):
        cosines = made.vectors[rows] @ vector
        best = {f"d{row}" for row in rows[np.argsort(-cosines)[:TOP_K]]}
        hit += len(best & set(_searched(made, i, dense, filter)[1]))
        total += len(best)
    return {
        "passing": len(rows),
        "found": hit / total if total else None,
        "first_ms": first_ms,
        "p50_ms": float(np.percentile(taken, 50)),
        "p95_ms": float(np.percentile(taken, 95)),
    }


def _searched(made: Any, i: int, settings: SearchSettings, filter: Filter | None) -> tuple[float, list[str]]:
    """(milliseconds, ids of the documents) of question number `i`."""
    start = time.perf_counter()
    (sources,) = made.retriever.search_vectors([made.texts[i]], made.asked[i : i + 1], TOP_K, settings, filter)
    return 1000 * (time.perf_counter() - start), [source.document_id for source in sources]
