"""One outcome row and one arm's totals, read from JSON values; every field that cannot be is named with its place."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from core.errors import DataError

Outcome = Literal["correct", "wrong", "refused", "error"]
OUTCOMES: tuple[str, ...] = get_args(Outcome)


@dataclass(frozen=True, slots=True)
class OutcomeRow:
    """One item's outcome in one arm. `outcome` None: graded by `score` alone."""

    item: str
    arm: str
    outcome: Outcome | None
    content: int | None = None
    """1: the right answer is in there, whatever its shape. None: as `outcome` says."""
    form: int | None = None
    """1: the shape is right. None: as `outcome` says."""
    score: float | None = None
    """Graded metric, 0-1."""
    cluster: str | None = None
    """Document, entity or template that this item shares with others."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    latency_s: float | None = None


class Totals(NamedTuple):
    """One arm of a table of totals. `n` counts the scored items, errors apart."""

    n: int
    correct: float
    """Fractional where only a mean score is known."""
    refused: int
    error: int


def read_row(value: Any, source: str, line: int) -> OutcomeRow:
    """Raises DataError: a field is missing or out of range."""
    if not isinstance(value, dict):
        raise DataError(f'an outcome row is an object {{"item", "arm", "outcome"}}, got {short(value)}', source, line)
    for key in ("item", "arm"):
        if value.get(key) in (None, ""):
            raise DataError(f'"{key}" is missing in {short(value)}', source, line)
    outcome = value.get("outcome")
    if outcome is not None and outcome not in OUTCOMES:
        raise DataError(f'"outcome" is {short(outcome)}; it must be one of {", ".join(OUTCOMES)}', source, line)
    score = _number(value, "score", source, line, highest=1.0)
    if outcome is None and score is None:
        raise DataError(
            f'"outcome" is missing in {short(value)}; give one of {", ".join(OUTCOMES)} or a "score"', source, line
        )
    cluster = value.get("cluster")
    return OutcomeRow(
        item=as_name(value["item"], "item", source, line),
        arm=as_name(value["arm"], "arm", source, line),
        outcome=outcome,
        content=_flag(value, "content", source, line),
        form=_flag(value, "form", source, line),
        score=score,
        cluster=None if cluster is None else as_name(cluster, "cluster", source, line),
        input_tokens=_whole(value, "input_tokens", source, line),
        output_tokens=_whole(value, "output_tokens", source, line),
        latency_s=_number(value, "latency_s", source, line),
    )


def read_totals(name: str, value: Any, path: Path | str | None) -> Totals:
    """The totals of the arm `name`.

    Raises:
        DataError: a field is missing or out of range, or the counts do not add up.
    """
    where = f'arm "{name}"'
    if not isinstance(value, dict):
        raise DataError(f'{where}: expected {{"n": .., "correct": ..}}, got {short(value)}', path)
    n = _whole(value, "n", path, None, where)
    if n is None:
        raise DataError(f'{where}: "n" is missing; how many items did it answer?', path)
    refused = _whole(value, "refused", path, None, where) or 0
    error = _whole(value, "error", path, None, where) or 0
    wrong = _whole(value, "wrong", path, None, where)
    given = _number(value, "correct", path, None, where=where)
    score = _number(value, "score", path, None, highest=1.0, where=where)
    if given is None and score is None:
        raise DataError(f'{where}: give "correct" (a count) or "score" (a rate, 0-1)', path)
    if n == 0 and error == 0:
        raise DataError(f'{where}: "n" is 0; an arm without items has no rate, leave it out', path)
    # `n` may or may not count the failed calls; the other counts tell which.
    apart = error > n or (wrong is not None and given is not None and given + wrong + refused + error > n)
    counted = n if apart else n - error
    correct = given if given is not None else (score or 0.0) * counted
    if correct + refused + (wrong or 0) > counted + 1e-9:
        raise DataError(
            f"{where}: correct {correct:g} + wrong {wrong or 0} + refused {refused} is more than the {counted} items scored",
            path,
        )
    if given is not None and score is not None and counted and abs(given / counted - score) > 0.006:
        raise DataError(f"{where}: correct / n = {given / counted:.3f}, but score = {score:g}; give one of them", path)
    return Totals(counted, correct, refused, error)


def as_name(value: Any, key: str, path: Path | str | None, line: int | None) -> str:
    """An item, arm or cluster as text; numbers are accepted."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise DataError(f'"{key}" must be a string or a number, got {short(value)}', path, line)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise DataError(f'"{key}" must be a string or a number, got {short(value)}', path, line)
        # 7.0 is 7: a table that went through pandas has floats for whole numbers in some arms.
        value = int(value) if value.is_integer() else value
    text = str(value).strip()
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise DataError(f'"{key}" holds half a character (a lone surrogate): {text[:40]!a}', path, line)
    if not text:
        raise DataError(f'"{key}" is empty', path, line)
    return text


def _number(
    row: Mapping[str, Any],
    key: str,
    path: Path | str | None,
    line: int | None,
    highest: float = math.inf,
    where: str = "",
) -> float | None:
    value = row.get(key)
    if value is None:
        return None
    prefix = f"{where}: " if where else ""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < sys.float_info.max:
        raise DataError(f'{prefix}"{key}" must be a number, got {short(value)}', path, line)
    if not 0 <= value <= highest:
        hint = f"; write {value / 100:g}, not {value:g} (per cent)" if highest == 1 and 1 < value <= 100 else ""
        limit = "0 or more" if highest == math.inf else f"from 0 to {highest:g}"
        raise DataError(f'{prefix}"{key}" is {value:g}; it must be {limit}{hint}', path, line)
    return float(value)


def _whole(row: Mapping[str, Any], key: str, path: Path | str | None, line: int | None, where: str = "") -> int | None:
    value = _number(row, key, path, line, where=where)
    if value is not None and value != int(value):
        raise DataError(f'{where + ": " if where else ""}"{key}" must be a whole number, got {value:g}', path, line)
    return None if value is None else int(value)


def _flag(row: Mapping[str, Any], key: str, path: Path | str | None, line: int | None) -> int | None:
    value = row.get(key)
    if value is not None and value not in (0, 1):
        raise DataError(f'"{key}" is {short(value)}; it must be 0 or 1', path, line)
    return None if value is None else int(value)


def short(value: Any) -> str:
    """`value` as an error message shows it: one line, at most 80 characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = text if len(text) <= 80 else text[:77] + "..."
    return repr(text) if isinstance(value, str) else text
