"""Retrieval metrics by the definitions of trec_eval (as pytrec_eval computes them), and qrels files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from core.errors import DataError
from core.records import read_utf8

Qrels = dict[str, dict[str, int]]
"""Relevance of documents by query id; over 0 is relevant."""


def recall(ranking: Sequence[str], relevant: Mapping[str, int], k: int) -> float:
    """Share of the relevant documents among the first `k` (trec_eval's recall_k)."""
    wanted = {id for id, grade in relevant.items() if grade > 0}
    return len(wanted.intersection(ranking[:k])) / len(wanted)


def reciprocal_rank(ranking: Sequence[str], relevant: Mapping[str, int]) -> float:
    """1 / rank of the first relevant document; 0 when there is none (trec_eval's recip_rank)."""
    return next((1 / rank for rank, id in enumerate(ranking, start=1) if relevant.get(id, 0) > 0), 0.0)


def ndcg(ranking: Sequence[str], relevant: Mapping[str, int], k: int) -> float:
    """Normalised discounted cumulative gain of the first `k` (trec_eval's ndcg_cut_k): gain is the grade, the
    discount log2(rank + 1), the ideal ranking has the judged documents by grade."""
    gains = [max(0, relevant.get(id, 0)) for id in ranking[:k]]
    ideal = sorted((grade for grade in relevant.values() if grade > 0), reverse=True)[:k]
    return _dcg(gains) / _dcg(ideal)


def _dcg(gains: Sequence[int]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))


def read_qrels(path: Path) -> Qrels:
    """Relevance judgements: BEIR's TSV (query-id, corpus-id, score, with a header) or TREC's four columns.

    Raises:
        DataError: a line has neither form; names it.
    """
    qrels: Qrels = {}
    for number, line in enumerate(read_utf8(path).split("\n"), start=1):
        cells = line.split("\t") if "\t" in line else line.split()
        cells = [cell.strip() for cell in cells]
        if not any(cells):
            continue
        if len(cells) == 4:
            cells = [cells[0], cells[2], cells[3]]
        if len(cells) == 2:
            cells.append("1")
        try:
            query, document, grade = cells
            qrels.setdefault(query, {})[document] = int(float(grade))
        except ValueError as exc:
            if number == 1:
                continue  # the header
            raise DataError(
                "is neither `query-id <tab> corpus-id <tab> score` nor TREC's four columns", path, number
            ) from exc
    if not qrels:
        raise DataError("has no relevance judgement", path)
    return qrels
