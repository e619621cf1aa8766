"""From an answer to an outcome: content by the scorer, form by the learnt shape, refusals apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from advisor.form import FormSpec
from advisor.refusals import is_refusal
from advisor.scorers.base import Scorer, without_thought
from core.engines.base import Result
from core.errors import DataError, EngineError
from core.rows import Row
from core.types import FinishReason

ScoredOutcome = Literal["correct", "wrong", "refused"]


class Scored(NamedTuple):
    outcome: ScoredOutcome | None
    """None for a graded answer that no threshold calls correct or wrong: `score` is all there is."""
    content: int | None
    """1: the right answer is in there. None where `outcome` is None."""
    form: int
    """1: it has the shape that the training outputs have."""
    score: float
    """0-1; for scorers that are not graded it is `content`, or the share that was right."""


def cells(
    rows: Sequence[Row], results: Sequence[Result], scorer: Scorer, form: FormSpec, refusals: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """What outcomes.jsonl says of each answer: the CONTRACT's fields and the answer itself, in the order of `rows`.

    A failed call, and an answer that a judge could not judge, is an `error`: nothing is known of it, so it is not 0.
    """
    pairs = list(zip(rows, results, strict=True))
    if scorer.prepare is not None:
        scorer.prepare(
            [(without_thought(r.text), row) for row, r in pairs if not isinstance(r, EngineError) and row.answers]
        )
    return [_cell(row, result, scorer, form, refusals) for row, result in pairs]


def _cell(row: Row, result: Result, scorer: Scorer, form: FormSpec, refusals: Sequence[str]) -> dict[str, Any]:
    cell: dict[str, Any] = {"item": row.id}
    if row.cluster is not None:
        cell["cluster"] = row.cluster
    if result.attempts > 1:
        cell["attempts"] = result.attempts
    if isinstance(result, EngineError):
        return {**cell, "outcome": "error", "answer": "", "error": str(result)}
    cell |= {
        "answer": result.text,
        "input_tokens": result.usage.prompt_tokens,
        "output_tokens": result.usage.completion_tokens,
        "latency_s": result.latency_s,
    }
    try:
        scored = outcome(result.text, row, scorer, form, result.finish_reason, refusals)
    except EngineError as exc:
        return {**cell, "outcome": "error", "error": str(exc)}
    return {**cell, **scored._asdict()}


def outcome(
    answer: str,
    row: Row,
    scorer: Scorer,
    form: FormSpec,
    finish_reason: FinishReason = "stop",
    refusals: Sequence[str] = (),
) -> Scored:
    """What became of `row`: correct = content and form; a refusal is neither correct nor wrong.

    On an unanswerable row a refusal is correct and any other answer wrong. On an answerable one, an answer with the
    right content is never a refusal, however it hedges. An answer cut off at its length limit has no shape. What a
    reasoning model thinks in <think> marks is no part of its answer.

    Args:
        refusals: the user's own refusal patterns.

    Raises:
        DataError: the row has no gold answer to score against.
        EngineError: the scorer is a judge, and it gave no verdict.
    """
    answer = without_thought(answer)
    if not row.answerable:
        return _unanswerable(answer, row, scorer, refusals)
    if not row.answers:
        raise DataError(f"row {row.id!r} has no gold answer, so nothing can be scored on it", line=row.line)
    value, content = scorer.score(answer, row)
    shaped = form.check(answer) and not (form.checks and finish_reason == "length")
    if not content and is_refusal(answer, refusals) and not _is_label(answer, scorer):
        return Scored("refused", 0, int(shaped), 0.0)
    if content is None:
        return Scored(None, None, int(shaped), value)
    return Scored("correct" if content and shaped else "wrong", int(content), int(shaped), value)


def _unanswerable(answer: str, row: Row, scorer: Scorer, refusals: Sequence[str]) -> Scored:
    right = is_refusal(answer, refusals)
    if not right and row.answers:
        # A house's own words for "not in the documents" stand as the gold answer.
        right = bool(scorer.score(answer, row).content)
    return Scored("correct" if right else "wrong", int(right), 1, float(right))


def _is_label(answer: str, scorer: Scorer) -> bool:
    """Whether the answer is one of the labels: "unknown" may be a class, and then it is an answer."""
    plain = answer.strip().casefold()
    return any(plain == label.casefold() for label in scorer.labels)
