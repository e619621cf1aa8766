"""Which length of chunks suits a use case, by its own questions: an index for each length, made aside and removed again.

The lengths are compared by documents found (nDCG@10), with the search settings that are to be kept. The dev half of the
questions chooses, the test half judges the one choice against the chunks in force. It has judged the search settings
before, so the level is halved (Bonferroni).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from core.search_settings import SearchSettings
from core.settings import UseCase
from core.stats import Estimate, paired_bootstrap, paired_p, share
from core.workspace import UseCaseFolder, Workspace
from rag.evaluate import Judged, scored
from rag.ingest import ingest
from rag.open import open_retriever
from rag.passages import embedded_text
from rag.retrieve import Retriever
from rag.tune import ALPHA, DEPTH, METRIC, halves

SAMPLE = 64
"""Passages whose embedding is timed for the estimate."""


@dataclass(frozen=True)
class TriedChunks:
    """One length on the dev half; None is the length in force."""

    chunk_tokens: int | None
    passages: int
    score: float


@dataclass(frozen=True)
class ChunkTuning:
    """What was found. `kept` is the declared length to go on with, `changed` whether it is another one."""

    kept: int | None
    changed: bool
    why: str
    current_score: Estimate
    best: int | None
    best_score: Estimate
    difference: Estimate
    p: float
    tried: list[TriedChunks]
    seconds: float


def estimate_s(retriever: Retriever, lengths: Sequence[int]) -> float:
    """Seconds that the indexes of `lengths` will take, nearly all of it embedding: a sample of the index, timed."""
    texts = [embedded_text(row) for row in retriever.sample(SAMPLE)]
    retriever.encode(texts[:1])
    start = time.monotonic()
    retriever.encode(texts)
    return (time.monotonic() - start) / len(texts) * retriever.origin.passages * len(lengths)


def tune_chunks(
    folder: UseCaseFolder,
    settings: UseCase,
    workspace: Workspace,
    judged: Sequence[Judged],
    search: SearchSettings,
    lengths: Sequence[int],
    tick: Callable[[int], None] = lambda n: None,
) -> ChunkTuning:
    """The best of `lengths`, and whether it is shown to beat the chunks in force. Nobody else may have the index open.

    Args:
        search: how passages are searched for, with every length.
        tick: called with 1 after each length.

    Raises:
        DataError: too few questions, or no documents to cut.
    """
    start = time.monotonic()
    dev, test = halves(judged, settings.seed)
    with open_retriever(folder, settings, workspace) as current:
        tried = [TriedChunks(settings.chunk_tokens, current.origin.passages, _mean(current, dev, search))]
        by_length = {settings.chunk_tokens: _scores(current, test, search)}
    for length in lengths:
        with TemporaryDirectory(prefix=".chunks-", dir=folder.path) as aside:
            trial = UseCaseFolder(Path(aside))
            wanted = settings.model_copy(update={"chunk_tokens": length, "store": None})
            ingest(trial, wanted, workspace, settings.docs)
            with open_retriever(trial, wanted, workspace) as retriever:
                tried.append(TriedChunks(length, retriever.origin.passages, _mean(retriever, dev, search)))
                by_length[length] = _scores(retriever, test, search)
        tick(1)
    # Stable: of equals the length in force, which comes first.
    tried.sort(key=lambda one: -one.score)
    best = tried[0].chunk_tokens
    now, then = by_length[settings.chunk_tokens], by_length[best]
    difference, p = paired_bootstrap(then, now), paired_p(then, now)
    better = p < ALPHA / 2 and difference.value > 0
    if best == settings.chunk_tokens:
        why = "no other length is better on the dev half"
    else:
        shown = "better" if better else "not shown to be better"
        why = f"the best of the dev half is {shown} on the test half (p = {p:.2g}, level {ALPHA / 2:g})"
    return ChunkTuning(
        kept=best if better else settings.chunk_tokens,
        changed=better,
        why=why,
        current_score=share(now),
        best=best,
        best_score=share(then),
        difference=difference,
        p=p,
        tried=tried,
        seconds=time.monotonic() - start,
    )


def _scores(retriever: Retriever, judged: Sequence[Judged], search: SearchSettings) -> list[float]:
    found = retriever.search([row.input for row, _ in judged], DEPTH, search)
    return [one.scores[METRIC] for one in scored(judged, found)]


def _mean(retriever: Retriever, judged: Sequence[Judged], search: SearchSettings) -> float:
    return float(np.mean(_scores(retriever, judged, search)))
