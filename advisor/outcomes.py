"""Outcome tables: which arm got which item right, read from JSONL rows or from totals.

Two shapes, one type. Rows (item x arm) are aligned on the items, so arms can be
paired; totals (n and correct of each arm) cannot, and every test on them says so.
Whatever the order of the rows, the table is the same.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from advisor.arm_names import in_order
from advisor.outcome_rows import OutcomeRow, Totals, as_name, read_row, read_totals, short
from core.errors import DataError

__all__ = ["ArmOutcomes", "Counts", "OutcomeRow", "OutcomeTable", "Totals", "read_outcomes"]

ABSENT, CORRECT, WRONG, REFUSED, ERROR, SCORED = range(6)
"""Codes of `ArmOutcomes.outcome`; SCORED is a graded answer that nobody called correct or wrong."""

_CODES: dict[str | None, int] = {"correct": CORRECT, "wrong": WRONG, "refused": REFUSED, "error": ERROR, None: SCORED}


@dataclass(frozen=True)
class ArmOutcomes:
    """One arm's answers, aligned with the table's items; NaN where there is nothing to count."""

    outcome: NDArray[np.int8]
    correct: NDArray[np.float64]
    """1 correct, 0 wrong or refused, NaN absent or error; in a graded table the score."""
    content: NDArray[np.float64]
    input_tokens: NDArray[np.float64]
    output_tokens: NDArray[np.float64]
    latency_s: NDArray[np.float64]


class Counts(NamedTuple):
    n: int
    """Scored items: correct + wrong + refused."""
    correct: int | None
    wrong: int | None
    refused: int
    error: int
    total: float
    """Sum of correct answers, or of scores: total / n is the rate."""


@dataclass(frozen=True)
class OutcomeTable:
    items: tuple[str, ...]
    """Sorted; empty in a table of totals."""
    arms: Mapping[str, ArmOutcomes]
    totals: Mapping[str, Totals]
    clusters: NDArray[np.int64] | None
    """Cluster of each item; None when no row names one."""
    graded: bool
    """Arms are compared on their scores, not on outcomes."""
    metric: str
    content_given: bool
    """Some row says whether the content was right apart from the form; else content is correct."""
    compared: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Comparisons made of this table (evidence.compare): a rule asks for most of them several times."""

    @property
    def paired(self) -> bool:
        return not self.totals

    @property
    def names(self) -> list[str]:
        """Arms, in the order of the method, unknown ones last."""
        return sorted(self.arms or self.totals, key=in_order)

    def counts(self, arm: str) -> Counts:
        if arm in self.totals:
            n, right, refused, error = self.totals[arm]
            whole = round(right)
            return Counts(n, whole, max(0, n - whole - refused), refused, error, right)
        data = self.arms[arm]
        correct, wrong, refused, error, scored = (
            int((data.outcome == code).sum()) for code in range(CORRECT, SCORED + 1)
        )
        total = float(np.nansum(data.correct))
        if scored:
            return Counts(correct + wrong + refused + scored, None, None, refused, error, total)
        return Counts(correct + wrong + refused, correct, wrong, refused, error, total)

    @classmethod
    def from_rows(cls, rows: Iterable[OutcomeRow]) -> OutcomeTable:
        """Raises DataError: no rows, one (item, arm) twice, or an item in two clusters."""
        return _assemble(list(rows), None, None)

    @classmethod
    def from_totals(cls, document: object, path: Path | str | None = None) -> OutcomeTable:
        """The table of `{"metric": ..., "arms": {name: {"n", "correct" | "score", "wrong", "refused", "error"}}}`.

        Raises:
            DataError: names the arm, the field and the value that cannot be.
        """
        if not isinstance(document, dict) or not isinstance(document.get("arms"), dict):
            raise DataError(
                'totals are one JSON object {"metric": "accuracy", "arms": {"closed": {"n": .., "correct": ..}}}', path
            )
        if not document["arms"]:
            raise DataError('"arms" is empty; give at least the arm "closed"', path)
        totals: dict[str, Totals] = {}
        for given, value in document["arms"].items():
            name = as_name(given, "arm", path, None)
            if name in totals:
                raise DataError(f"arm {name!r} stands twice; keep one of the two", path)
            totals[name] = read_totals(name, value, path)
        return cls((), {}, totals, None, False, str(document.get("metric", "accuracy")), False)


def read_outcomes(path: Path | str) -> OutcomeTable:
    """The outcome table in `path` (`-`: standard input): JSONL rows, a JSON array of them, or an object of totals.

    Raises:
        DataError: names the file, the line where there is one, and what is wrong.
    """
    source = "<stdin>" if str(path) == "-" else str(path)
    text = _read_text(Path(path), source)
    try:
        document = json.loads(text, object_pairs_hook=partial(_unique, source))
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict) and not {"item", "arm", "outcome"} & set(document):
        return OutcomeTable.from_totals(document, source)
    if isinstance(document, list):
        lines, values = list(range(1, len(document) + 1)), document
    else:
        lines, values = _parse_lines(text, source)
    return _assemble([read_row(value, source, line) for line, value in zip(lines, values, strict=True)], source, lines)


def _unique(source: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Raises DataError: a key stands twice; Python's reader would keep the last and say nothing."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{short(twice)} stands twice in one object; keep one of the two", source)
    return found


def _read_text(path: Path, source: str) -> str:
    try:
        data = sys.stdin.buffer.read() if source == "<stdin>" else path.read_bytes()
    except FileNotFoundError as exc:
        raise DataError("no such file; give JSONL outcome rows or a JSON object of totals", source) from exc
    except OSError as exc:
        raise DataError(f"cannot be read ({exc.strerror})", source) from exc
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise DataError(f"not UTF-8 text (byte {data[exc.start]:#04x})", source, line) from exc
    if not text.strip():
        raise DataError("is empty; give JSONL outcome rows or a JSON object of totals", source)
    return text


def _parse_lines(text: str, source: str) -> tuple[list[int], list[Any]]:
    lines, values = [], []
    # split("\n"), not splitlines(): U+2028 and the like may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values.append(json.loads(line))
        except (ValueError, RecursionError) as exc:
            hint = "" if values else "; decide reads JSONL rows or one JSON object of totals"
            raise DataError(f"not JSON ({exc}): {short(line.strip())}{hint}", source, number) from exc
        lines.append(number)
    return lines, values


def _assemble(rows: Sequence[OutcomeRow], path: str | None, lines: Sequence[int] | None) -> OutcomeTable:
    if not rows:
        raise DataError("no outcome rows", path)
    items = sorted({row.item for row in rows})
    position = {item: index for index, item in enumerate(items)}
    arms: dict[str, list[OutcomeRow | None]] = {
        arm: [None] * len(items) for arm in sorted({r.arm for r in rows}, key=in_order)
    }
    clusters: dict[str, str] = {}
    for index, row in enumerate(rows):
        line = None if lines is None else lines[index]
        column, place = arms[row.arm], position[row.item]
        if column[place] is not None:
            raise DataError(f"item {row.item!r} stands twice in arm {row.arm!r}; keep one row of the two", path, line)
        column[place] = row
        if row.cluster is not None and clusters.setdefault(row.item, row.cluster) != row.cluster:
            raise DataError(
                f"item {row.item!r} is in cluster {row.cluster!r} and in {clusters[row.item]!r}", path, line
            )
    graded = _is_graded(rows)
    return OutcomeTable(
        tuple(items),
        {arm: _columns(column, graded) for arm, column in arms.items()},
        {},
        _cluster_codes(items, clusters),
        graded,
        "score" if graded else "accuracy",
        not graded and any(row.content is not None for row in rows),
    )


def _is_graded(rows: Sequence[OutcomeRow]) -> bool:
    """Outcomes decide where they tell anything; scores where a row has nothing else or all outcomes are alike."""
    answered = [row for row in rows if row.outcome not in ("error", "refused")]
    if any(row.outcome is None for row in answered):
        return True
    same_outcome = len({row.outcome for row in answered}) == 1
    return same_outcome and len({row.score for row in answered}) > 1 and all(row.score is not None for row in answered)


def _columns(rows: Sequence[OutcomeRow | None], graded: bool) -> ArmOutcomes:
    outcome = np.array([ABSENT if row is None else _CODES[row.outcome] for row in rows], dtype=np.int8)
    right = np.where(outcome == CORRECT, 1.0, 0.0)
    right[(outcome == ABSENT) | (outcome == ERROR)] = np.nan
    if graded:
        scores = _numbers(rows, "score")
        correct = np.where(np.isnan(right) | np.isnan(scores), right, scores)
        content = correct
    else:
        correct = right
        given = _numbers(rows, "content")
        # A correct answer has the right content by definition, whatever its row says; a refusal has none.
        content = np.where(np.isnan(right) | np.isnan(given) | (outcome != WRONG), right, given)
    return ArmOutcomes(
        outcome,
        correct,
        content,
        _numbers(rows, "input_tokens"),
        _numbers(rows, "output_tokens"),
        _numbers(rows, "latency_s"),
    )


def _numbers(rows: Sequence[OutcomeRow | None], field: str) -> NDArray[np.float64]:
    values = (None if row is None else getattr(row, field) for row in rows)
    return np.array([math.nan if value is None else value for value in values], dtype=float)


def _cluster_codes(items: Sequence[str], clusters: Mapping[str, str]) -> NDArray[np.int64] | None:
    """Integer codes; an item without a cluster is its own. None when all items are their own."""
    keys = [("cluster", clusters[item]) if item in clusters else ("item", item) for item in items]
    codes = {key: code for code, key in enumerate(sorted(set(keys)))}
    return None if len(codes) == len(items) else np.array([codes[key] for key in keys], dtype=np.int64)
