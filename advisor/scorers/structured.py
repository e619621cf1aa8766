"""The scorers `json` and `regex`: answers that follow a pattern."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from advisor.scorers.base import Value
from advisor.scorers.numbers import RELATIVE_TOLERANCE, numbers
from core.errors import ConfigError, DataError
from core.rows import Row
from core.text import contains, normalise

_FENCE = re.compile(r"```[a-zA-Z0-9_-]*[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


_TRAILING_COMMA = re.compile(r",\s*([}\]])")
MAX_PAIRED = 100
"""Items of two lists that are paired with each other."""


def fenced(text: str) -> str:
    """What stands in the first code fence of `text`; the text itself where there is none."""
    match = _FENCE.search(text)
    return match[1].strip() if match else text.strip()


def find_json(text: str) -> Any:
    """The JSON object or array in `text`: all of it, in a code fence, or the first one among other words.

    None when there is none (a bare number or string is no structured answer).
    """
    for candidate in (text, fenced(text)):
        try:
            value = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict | list):
            return value
    decoder = json.JSONDecoder()
    for match in re.finditer(r"[{\[]", text):
        try:
            value, _ = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        if value and isinstance(value, dict | list):
            return value
    return None


def lenient_json(text: str) -> Any:
    """As `find_json`, but trailing commas and Python's way to write a dict are read too.

    They are faults of form, which is checked apart; the content is there.
    """
    for candidate in (text, fenced(text)):
        try:
            json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        return find_json(text)
    start = re.search(r"[{\[]", fenced(text))
    whole = fenced(text)[start.start() :] if start else ""
    whole = whole[: max(whole.rfind("}"), whole.rfind("]")) + 1]
    for read, candidate in ((json.loads, _TRAILING_COMMA.sub(r"\1", whole)), (ast.literal_eval, whole)):
        try:
            value = read(candidate)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(value, dict | list):
            return value
    return find_json(text)


def json_fields(schema: str = "") -> Value:
    """Value function of `json[:SCHEMA.json]`: F1 of the gold's fields and their values, 0 where the schema is broken.

    Fields are compared leaf by leaf, texts in normal form, numbers as numbers; lists without their order, but an
    object in a list as a whole. Fields the gold lacks are left to the form check. An answer in prose scores the share of the gold's texts and numbers it
    holds: right content in the wrong shape.

    Raises:
        ConfigError: the schema cannot be read, or is no JSON Schema.
    """
    valid = _validator(schema) if schema else None

    def value(answer: str, row: Row) -> float:
        found = lenient_json(answer)
        if found is not None and valid is not None and not valid(found):
            return 0.0
        return max(_agreement(found, answer, gold) for gold in row.answers)

    return value


def regex(pattern: str = "") -> Value:
    """Value function of `regex[:PATTERN]`.

    Without a pattern the gold answers are patterns, searched in the answer. A pattern with a group takes the answer
    out of the text, to be compared with the gold in normal form; one without a group is itself what must be there.

    Raises:
        ConfigError: the pattern is not a regular expression.
    """
    if not pattern:
        return lambda answer, row: float(any(_gold_pattern(gold, row).search(answer) for gold in row.answers))
    try:
        compiled = re.compile(pattern)
    except re.error as exc:
        raise ConfigError(f"scorer `regex:{pattern}`: not a regular expression: {exc}") from exc

    def value(answer: str, row: Row) -> float:
        match = compiled.search(answer)
        if match is None:
            return 0.0
        if not compiled.groups:
            return 1.0
        taken = normalise(next((group for group in match.groups() if group is not None), ""))
        return float(any(taken == normalise(gold) for gold in row.answers))

    return value


def _gold_pattern(gold: str, row: Row) -> re.Pattern[str]:
    try:
        return re.compile(gold)
    except re.error as exc:
        raise DataError(f"row {row.id!r}: the gold {gold!r} is not a regular expression: {exc}", line=row.line) from exc


def _validator(schema: str) -> Callable[[Any], bool]:
    from jsonschema import Draft202012Validator, SchemaError

    try:
        document = json.loads(Path(schema).read_text(encoding="utf-8"))
        Draft202012Validator.check_schema(document)
    except OSError as exc:
        raise ConfigError(f"scorer `json:{schema}`: the schema cannot be read ({exc.strerror})") from exc
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"scorer `json:{schema}`: the schema is not valid JSON: {exc}") from exc
    except SchemaError as exc:
        raise ConfigError(f"scorer `json:{schema}`: not a JSON Schema: {exc.message}") from exc
    return Draft202012Validator(document).is_valid


Leaf = tuple[str, str]
"""Path and value of one leaf."""


def _agreement(found: Any, answer: str, gold: str) -> float:
    wanted = find_json(gold)
    if wanted is None:
        return float(contains(answer, gold))
    golds = Counter(_leaves(wanted))
    if not golds:
        return float(found == wanted)
    if found is None:
        return _share_in_prose(answer, wanted)
    if isinstance(found, list) and isinstance(wanted, dict) and len(found) == 1:
        found = found[0]
    asked = {path for path, _ in golds}
    given = sum(path in asked for path, _ in _leaves(found))
    common = _common(found, wanted)
    return 2 * common / (golds.total() + given) if common else 0.0


def _common(found: Any, wanted: Any) -> int:
    """Leaves that the two share; items of lists are paired so that they share many."""
    if isinstance(wanted, Mapping | list) and not wanted:
        return int(found == wanted)
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        by_name = {normalise(key): item for key, item in found.items()}
        return sum(_common(by_name[name], item) for key, item in wanted.items() if (name := normalise(key)) in by_name)
    if isinstance(found, list) and isinstance(wanted, list):
        if not any(isinstance(item, Mapping | list) for item in (*found, *wanted)):
            return (Counter(_leaves(found)) & Counter(_leaves(wanted))).total()
        # Greedy, best pair first: exact where items differ in few ways, and lists in answers are short.
        pairs = [
            (_common(a, b), i, j) for i, a in enumerate(found[:MAX_PAIRED]) for j, b in enumerate(wanted[:MAX_PAIRED])
        ]
        used_found, used_wanted, total = set(), set(), 0
        for count, i, j in sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2])):
            if i not in used_found and j not in used_wanted:
                used_found.add(i)
                used_wanted.add(j)
                total += count
        return total
    return (Counter(_leaves(found)) & Counter(_leaves(wanted))).total()


def _leaves(value: Any, path: str = "") -> Iterator[Leaf]:
    """An empty list or object within is a leaf of its own: "no tags" is an answer."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{normalise(key)}")
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, f"{path}[]")
    if isinstance(value, Mapping | list):
        if not value and path:
            yield f"{path}[]" if isinstance(value, list) else path, "<empty>"
    else:
        yield path, _leaf(value)


def _leaf(value: Any) -> str:
    """Leaves that are equal give equal texts: 5, 5.0 and "5" are one value, True is not 1."""
    if value is None or isinstance(value, bool):
        return f"<{value}>"
    if isinstance(value, str):
        number = _exact_number(value)
        return normalise(value) if number is None else f"{number:.9g}"
    return f"{float(value):.9g}" if abs(value) < 1e300 else str(value)


def _exact_number(text: str) -> float | None:
    try:
        number = float(text.strip())
    except ValueError:
        return None
    return number if abs(number) < 1e300 else None


def _share_in_prose(answer: str, wanted: Any) -> float:
    """Share of the gold's leaves that the words hold. True, false and null cannot be seen in prose: not held."""
    stated = [number.value for number in numbers(answer)]
    held = [_held(answer, stated, value) for value in _scalars(wanted)]
    return sum(held) / len(held)


def _held(answer: str, stated: list[float], value: Any) -> bool:
    if value is None or isinstance(value, bool):
        return False
    if isinstance(value, str):
        return contains(answer, value)
    return any(abs(number - value) <= RELATIVE_TOLERANCE * abs(value) for number in stated)


def _scalars(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _scalars(item)
    else:
        yield value
