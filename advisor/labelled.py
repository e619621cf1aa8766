"""Answers with a person's label, and how well a judge agrees with them: what it must show before its scores count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from advisor.scorers.judge import Case, Verdict
from core.errors import DataError
from core.records import Record, read_records
from core.rows import Row
from core.stats import Estimate, wilson

MIN_LABELLED = 20
MIN_OF_EACH = 5
"""Fewer right or wrong answers, and a judge that says the same of everything would look good."""

EXAMPLES = 10

_FIELDS: dict[str, tuple[str, ...]] = {
    "item": ("item", "id", "_id"),
    "question": ("question", "input", "prompt", "query"),
    "golds": ("reference", "references", "gold", "golds", "expected", "answers", "target"),
    "answer": ("answer", "given_answer", "candidate", "response", "prediction", "output", "completion"),
    "label": ("label", "human", "human_label", "correct", "is_correct"),
}
_LABELS = {
    **dict.fromkeys(["correct", "right", "true", "yes", "1", "1.0", "good", "pass"], True),
    **dict.fromkeys(["wrong", "incorrect", "false", "no", "0", "0.0", "bad", "fail", "refused"], False),
}


class Labelled(NamedTuple):
    case: Case
    right: bool
    """As a person says."""


class Agreement(NamedTuple):
    rate: Estimate
    """Share of the labelled answers on which judge and person say the same; no verdict counts as disagreement."""
    kappa: Estimate
    of_right: Estimate
    """Share of the answers labelled right that the judge calls right."""
    of_wrong: Estimate
    """Share of the answers labelled wrong that the judge calls wrong."""
    unjudged: int
    turned: int
    """Answers whose verdict turned when reference and answer changed places."""
    unsteady: int
    """Answers whose verdict changed when the same was asked again."""
    disagreements: tuple[dict[str, Any], ...]
    """The first few, for a person to look at."""

    def sentence(self) -> str:
        rate, kappa = self.rate, self.kappa
        return (
            f"it agrees with people on {round(rate.value * rate.n)} of {rate.n} labelled answers ({rate.value:.0%}, "
            f"95 % interval {rate.low:.0%} to {rate.high:.0%}; kappa {kappa.value:.2f}, {kappa.low:.2f} to "
            f"{kappa.high:.2f}), turns with the order on {self.turned} and gives no verdict on {self.unjudged}"
        )


def read_labelled(path: Path, rows: Sequence[Row]) -> list[Labelled]:
    """The labelled answers of `path` (JSONL, CSV, TSV, Parquet), rows without a label left out.

    A row holds the `answer` that was given and a `label` (correct or wrong, true or false, 1 or 0), and either an
    `item` (id of an eval row) or its own `question` and `reference`. So the outcomes.jsonl of a run with labels
    written into some of its rows will do.

    Raises:
        DataError: a row cannot be used, or none has a label.
    """
    known = {row.id: row for row in rows}
    records = read_records(path)
    found = [item for record in records if (item := _labelled(record, known, path)) is not None]
    if not found:
        raise DataError('no row has a label; write `"label": "correct"` or `"wrong"` into the rows', path)
    return found


def lacking(labelled: Sequence[Labelled]) -> str:
    """Why agreement cannot be measured on `labelled`; "" where it can."""
    right = sum(item.right for item in labelled)
    wrong = len(labelled) - right
    if not labelled:
        return "there are no labelled answers to measure its agreement on (`labelled = FILE` under [judge])"
    if len(labelled) < MIN_LABELLED:
        return f"{len(labelled)} labelled answers are too few to measure its agreement on; give {MIN_LABELLED} or more"
    if min(right, wrong) < MIN_OF_EACH:
        return f"the labelled answers are {right} right and {wrong} wrong; give {MIN_OF_EACH} or more of each"
    return ""


def agreement(labelled: Sequence[Labelled], verdicts: Sequence[Verdict]) -> Agreement:
    """How far `verdicts`, one a labelled answer and with all votes asked, agree with the labels."""
    pairs = list(zip(labelled, verdicts, strict=True))
    said = [(item.right, verdict.right) for item, verdict in pairs]
    rate = wilson(sum(a == b for a, b in said), len(said))
    right = [b for a, b in said if a]
    wrong = [b for a, b in said if not a]
    return Agreement(
        rate=rate,
        kappa=_kappa(said, rate),
        of_right=wilson(right.count(True), len(right)),
        of_wrong=wilson(wrong.count(False), len(wrong)),
        unjudged=sum(verdict.right is None for verdict in verdicts),
        turned=sum(_differ(verdict.votes, 0, 1) for verdict in verdicts),
        unsteady=sum(_differ(verdict.votes, 0, 2) or _differ(verdict.votes, 1, 3) for verdict in verdicts),
        disagreements=tuple(
            {
                "question": item.case.question,
                "reference": list(item.case.golds),
                "answer": item.case.answer,
                "label": "correct" if item.right else "wrong",
                "judge": {True: "correct", False: "wrong", None: "no verdict"}[verdict.right],
                "replies": list(verdict.replies),
            }
            for item, verdict in pairs
            if item.right != verdict.right
        )[:EXAMPLES],
    )


def _kappa(said: Sequence[tuple[bool, bool | None]], rate: Estimate) -> Estimate:
    """Cohen's kappa (Cohen 1960), no verdict being a third class that people never use.

    Its interval is that of the agreement with the agreement by chance held fixed; Wilson's keeps a width where all agree.
    """
    n = len(said)
    by_chance = sum(
        sum(a is label for a, _ in said) / n * sum(b is label for _, b in said) / n for label in (True, False)
    )
    if by_chance >= 1 - 1e-12:
        return Estimate(0.0, 0.0, 0.0, n)
    low, value, high = ((share - by_chance) / (1 - by_chance) for share in (rate.low, rate.value, rate.high))
    return Estimate(value, low, high, n)


def _differ(votes: Sequence[bool | None], i: int, j: int) -> bool:
    return len(votes) > j and None not in (votes[i], votes[j]) and votes[i] != votes[j]


def _labelled(record: Record, known: Mapping[str, Row], path: Path) -> Labelled | None:
    fields = {key.strip().lower(): value for key, value in record.fields.items() if value not in (None, "", [])}
    label = _first(fields, "label")
    if label is None:
        return None
    right = _LABELS.get(str(label).strip().lower())
    if right is None:
        raise DataError(
            f"the label {label!r} is none; write correct or wrong (true or false, 1 or 0)", path, record.line
        )
    answer = _first(fields, "answer")
    if not isinstance(answer, str | int | float):
        raise DataError("there is no `answer` that the label is about", path, record.line)
    item, question, golds = _first(fields, "item"), _first(fields, "question"), _texts(_first(fields, "golds"))
    row = None if item is None else known.get(str(item))
    if row is not None:
        question, golds = question or row.input, golds or row.answers
    if not isinstance(question, str) or not golds:
        hint = (
            "" if item is None else f"; no eval row has the id {item!r}" if row is None else "; its eval row has none"
        )
        raise DataError(f"there is no `question` or no `reference`{hint}", path, record.line)
    return Labelled(Case(question, golds, str(answer)), right)


def _first(fields: Mapping[str, Any], name: str) -> Any:
    return next((fields[key] for key in _FIELDS[name] if key in fields), None)


def _texts(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    items: Iterable[Any] = value if isinstance(value, list) else [value]
    return tuple(str(item) for item in items)
