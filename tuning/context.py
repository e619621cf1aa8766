"""Context tuning: rows that are asked the way a RagEngine asks, so that the model learns to answer from passages.

After RAFT (Zhang et al. 2024): most rows show the gold passage among distractors, some show distractors alone; the
answer may cite the passage it is from. The words around the passages are those of the engine (`core.prompts.grounded`).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from core.errors import ConfigError
from core.prompts import grounded
from core.rows import Row
from core.settings import UseCase
from core.text import content_tokens
from core.types import Message, Source
from core.workspace import UseCaseFolder, Workspace

Ground = Callable[[Sequence[Message], Sequence[Source]], tuple[Message, ...]]
"""Messages with passages put before the last user turn."""


class Passages(NamedTuple):
    """What one row may be shown."""

    gold: tuple[Source, ...]
    distractors: tuple[Source, ...]
    """Passages that lack the answer, the most likely to be retrieved first."""


class Supplied(NamedTuple):
    passages: list[Passages]
    """One a row."""
    ground: Ground


Supplier = Callable[[UseCaseFolder, UseCase, Workspace, Sequence[Row]], Supplied | None]
"""Passages for training rows from a use case's index; None where it has none. The tuning room knows no index itself."""


class ContextRecipe(BaseModel):
    """What training rows are shown."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    gold_share: float = Field(default=0.8, ge=0.4, le=1)
    """Share of the rows with a known gold passage that show it. RAFT's best lay between 40 and 100 % by data set; the
    others teach what to do when retrieval misses."""
    most_distractors: int = Field(default=4, ge=1, le=8)
    """1 to this many beside the gold passage, drawn for each row, so that no count gives anything away."""
    cite: bool = False
    """Answers name the gold passage, as in "... [2]"."""
    seed: int = 0


class ContextRows(NamedTuple):
    rows: list[Row]
    with_gold: int
    """Rows that show their gold passage."""
    without_known_gold: int
    """Rows for which no passage is known to hold the answer; they show distractors alone."""


def context_rows(
    rows: Sequence[Row], passages: Sequence[Passages], recipe: ContextRecipe, ground: Ground = grounded
) -> ContextRows:
    """`rows` with passages before their question, in an order that gives nothing away; the draw hangs on seed and row id."""
    made, with_gold = [], 0
    for row, some in zip(rows, passages, strict=True):
        rng = random.Random(f"{recipe.seed}/{row.id}")
        shows_gold = bool(some.gold) and rng.random() < recipe.gold_share
        count = rng.randint(1, recipe.most_distractors)
        chosen = [*(some.gold if shows_gold else ()), *some.distractors[:count]]
        rng.shuffle(chosen)
        sources = [replace(source, number=i) for i, source in enumerate(chosen, start=1)]
        gold_ids = {(s.document_id, s.text) for s in some.gold} if shows_gold else set()
        cited = [source.number for source in sources if (source.document_id, source.text) in gold_ids]
        answers = row.answers
        if recipe.cite and cited:
            marks = "".join(f"[{number}]" for number in cited)
            answers = tuple(f"{answer} {marks}" for answer in answers)
        made.append(replace(row, messages=ground(row.messages, sources), answers=answers))
        with_gold += shows_gold
    return ContextRows(made, with_gold, sum(not some.gold for some in passages))


def own_passages(rows: Sequence[Row], most: int = 8) -> list[Passages]:
    """Passages from the rows' own `context` fields; distractors are other rows' contexts that share the question's words.

    Raises:
        ConfigError: no row has a context, or all have the same one.
    """
    texts = list(dict.fromkeys(text for row in rows for text in row.context))
    if len(texts) < 2:
        raise ConfigError(
            "context tuning needs passages: index documents first (tunefork ingest), or give the training rows a"
            " `context` field"
        )
    words = [frozenset(content_tokens(text)) for text in texts]
    frequency = Counter(word for found in words for word in found)
    holders: dict[str, list[int]] = {}
    for at, found in enumerate(words):
        for word in found:
            holders.setdefault(word, []).append(at)
    return [_own(row, texts, frequency, holders, most) for row in rows]


def _own(row: Row, texts: Sequence[str], frequency: Counter[str], holders: dict[str, list[int]], most: int) -> Passages:
    own = set(row.context)
    # Rare shared words weigh most (an idf without its logarithm); words in a tenth of the passages say nothing.
    scores: Counter[int] = Counter()
    for word in set(content_tokens(row.input)):
        if 0 < frequency[word] <= max(2, len(texts) // 10):
            for at in holders[word]:
                scores[at] += 1 / frequency[word]  # type: ignore[assignment]
    likely = [at for at, _ in scores.most_common() if texts[at] not in own]
    others = (at for at in random.Random(row.id).sample(range(len(texts)), min(len(texts), 4 * most)))
    chosen = list(dict.fromkeys([*likely, *(at for at in others if texts[at] not in own)]))[:most]
    gold = tuple(Source(i, f"{row.id}/{i}", "", text, 1.0) for i, text in enumerate(row.context, start=1))
    return Passages(gold, tuple(Source(1, f"other/{at}", "", texts[at], 0.0) for at in chosen))
