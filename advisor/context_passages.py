"""Passages of a use case's index for its training rows: gold ones and the retriever's best wrong ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from advisor.passages import POOL, holds_answer
from core.labels import closed_labels
from core.prompts import grounded
from core.rows import Row
from core.settings import UseCase
from core.types import Source
from core.workspace import UseCaseFolder, Workspace

if TYPE_CHECKING:
    from tuning.context import Passages, Supplied


def index_passages(
    folder: UseCaseFolder, settings: UseCase, workspace: Workspace, rows: Sequence[Row]
) -> Supplied | None:
    """A `tuning.context.Supplier`: gold by `context_ids` or `context`, else a retrieved passage that holds the answer.

    Where the answers are a closed set of labels nothing stands in for a marked gold passage: "yes" is in every one.
    """
    from rag.open import open_retriever
    from tuning.context import Passages, Supplied

    if folder.index.active() is None:
        return None
    labels = closed_labels(rows) is not None
    retriever = open_retriever(folder, settings, workspace)
    try:
        known = frozenset(retriever.document_ids)
        found: list[Passages] = []
        for row, pool in zip(rows, retriever.search([row.input for row in rows], POOL), strict=True):
            ids = [id for id in row.context_ids if id in known]
            gold = [Source(i, f"{row.id}/{i}", "", text, 1.0) for i, text in enumerate(row.context, start=1)]
            if not gold and ids:
                gold = retriever.documents(ids, row.input)
            if not gold and not labels:
                gold = [source for source in pool if holds_answer(source.text, row)][:1]
            gold_ids = {source.document_id for source in gold} | set(row.context_ids)
            wrong = [s for s in pool if s.document_id not in gold_ids and (labels or not holds_answer(s.text, row))]
            found.append(Passages(tuple(gold), tuple(wrong)))
    finally:
        retriever.close()
    return Supplied(found, partial(grounded, grounding=settings.grounding))
