"""Which passages a search may return: conditions on their metadata, in the shape of OpenAI's vector-store filters.

    {"type": "eq", "key": "tenant", "value": "a"}
    {"type": "and", "filters": [{"type": "gte", "key": "date", "value": "2024-01-01"}, ...]}

Types are kept apart: the text "1", the number 1 and true are three values. A passage
that lacks the key passes `ne` and `nin` only. Numbers are compared exactly, texts by
code point, which orders ISO dates.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from core.errors import ConfigError
from rag.documents import Scalar

Operator = Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"]
Junction = Literal["and", "or"]

MAX_DEPTH = 16
MAX_CONDITIONS = 256
MAX_VALUES = 4096
"""Limits of a filter: it comes from strangers, and every condition is evaluated over all passages."""

_ORDERING = ("gt", "gte", "lt", "lte")
_LISTS = ("in", "nin")


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison of a metadata key."""

    type: Operator
    key: str
    values: tuple[Scalar, ...]
    """Exactly one, but for `in` and `nin`."""


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every part holds."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one part holds."""

    filters: tuple[Filter, ...]


Filter = Condition | AllOf | AnyOf


def parse_filter(value: object) -> Filter:
    """The filter that a JSON value declares.

    Raises:
        ConfigError: it is none; says where in it, which value, and what is expected.
    """
    left = [MAX_CONDITIONS]
    return _parsed(value, "filter", 1, left)


def read_filter(text: str) -> Filter:
    """The filter that `text` declares in JSON; raises ConfigError as `parse_filter`."""
    try:
        return parse_filter(json.loads(text))
    except (ValueError, RecursionError) as exc:
        raise ConfigError(
            f'filter: not valid JSON ({exc}); write for instance {{"type":"eq","key":"lang","value":"en"}}'
        ) from exc


def narrowed(*filters: Filter | None) -> Filter | None:
    """What every one of `filters` lets pass (None lets everything): a client's filter under the server's own.

    The parts stay whole below one `and`, so nothing in a client's filter, an `or` least of all, widens another part.
    """
    given = tuple(one for one in filters if one is not None)
    return AllOf(given) if len(given) > 1 else given[0] if given else None


def filter_json(filter: Filter) -> dict[str, Any]:
    """The filter as `parse_filter` reads it."""
    if isinstance(filter, Condition):
        value = list(filter.values) if filter.type in _LISTS else filter.values[0]
        return {"type": filter.type, "key": filter.key, "value": value}
    return {
        "type": "and" if isinstance(filter, AllOf) else "or",
        "filters": [filter_json(one) for one in filter.filters],
    }


def matches(filter: Filter, metadata: Mapping[str, Scalar]) -> bool:
    """Whether one passage's metadata passes: the definition that `rag.fields` evaluates over all passages at once."""
    if isinstance(filter, AllOf):
        return all(matches(one, metadata) for one in filter.filters)
    if isinstance(filter, AnyOf):
        return any(matches(one, metadata) for one in filter.filters)
    negated = filter.type in ("ne", "nin")
    if filter.key not in metadata:
        return negated
    own = typed(metadata[filter.key])
    if filter.type in _ORDERING:
        kind, bound = typed(filter.values[0])
        return own[0] == kind and _ordered(filter.type, own[1], bound)
    return any(own == typed(value) for value in filter.values) != negated


def typed(value: Scalar) -> tuple[int, Any]:
    """A value with its kind (0 number, 1 text, 2 truth), so that 1, "1" and true differ and kinds sort apart."""
    if isinstance(value, bool):
        return 2, value
    return (1, value) if isinstance(value, str) else (0, value)


def bounds(filter: Condition, ordered: list[tuple[int, Any]]) -> tuple[int, int]:
    """Which of `ordered` (typed values, sorted) an ordering condition lets pass, as a range."""
    value = typed(filter.values[0])
    if filter.type in ("gt", "gte"):
        first = bisect_right(ordered, value) if filter.type == "gt" else bisect_left(ordered, value)
        return first, bisect_left(ordered, (value[0] + 1,))
    last = bisect_left(ordered, value) if filter.type == "lt" else bisect_right(ordered, value)
    return bisect_left(ordered, (value[0],)), last


def _ordered(type: str, own: Any, bound: Any) -> bool:
    if type == "gt":
        return bool(own > bound)
    if type == "gte":
        return bool(own >= bound)
    return bool(own < bound) if type == "lt" else bool(own <= bound)


def _parsed(value: object, where: str, depth: int, left: list[int]) -> Filter:
    if not isinstance(value, dict):
        raise ConfigError(f'{where}: must be an object {{"type", ...}}, not {_shown(value)}')
    if depth > MAX_DEPTH:
        raise ConfigError(f"{where}: nested over {MAX_DEPTH} deep")
    kind: Any = value.get("type")
    if kind in get_args(Junction):
        _only(value, ("type", "filters"), where)
        parts = value.get("filters")
        if not isinstance(parts, list) or not parts:
            raise ConfigError(f"{where}.filters: {kind!r} needs a list of at least one filter, not {_shown(parts)}")
        filters = tuple(_parsed(one, f"{where}.filters[{i}]", depth + 1, left) for i, one in enumerate(parts))
        return AllOf(filters) if kind == "and" else AnyOf(filters)
    if kind not in get_args(Operator):
        known = ", ".join((*get_args(Operator), *get_args(Junction)))
        raise ConfigError(f"{where}.type: {_shown(kind)} is no filter type; known: {known}")
    _only(value, ("type", "key", "value"), where)
    left[0] -= 1
    if left[0] < 0:
        raise ConfigError(f"filter: has over {MAX_CONDITIONS} conditions")
    key = value.get("key")
    if not isinstance(key, str) or not key:
        raise ConfigError(f"{where}.key: must name a metadata field, not {_shown(key)}")
    given = value.get("value")
    if kind in _LISTS:
        if not isinstance(given, list) or not given:
            raise ConfigError(f"{where}.value: {kind!r} needs a list of at least one value, not {_shown(given)}")
        if len(given) > MAX_VALUES:
            raise ConfigError(f"{where}.value: has {len(given)} values, over the limit of {MAX_VALUES}")
        return Condition(kind, key, tuple(_scalar(one, f"{where}.value[{i}]") for i, one in enumerate(given)))
    one = _scalar(given, f"{where}.value")
    if kind in _ORDERING and isinstance(one, bool):
        raise ConfigError(f"{where}.value: {kind!r} needs a number or a text to compare with, not {_shown(one)}")
    return Condition(kind, key, (one,))


def _only(value: dict[Any, Any], known: tuple[str, ...], where: str) -> None:
    for key in value:
        if key not in known:
            raise ConfigError(f"{where}: unknown field {key!r}; known: {', '.join(known)}")


def _scalar(value: object, where: str) -> Scalar:
    if isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ConfigError(f"{where}: must be a text, a finite number or true/false, not {_shown(value)}")


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
