"""What is known about every passage, by field, and which passages a filter lets pass.

A field becomes a column when a filter first asks for it: each distinct value once,
sorted, and its number for every passage. So a condition is a look-up or a bisection
over the values and one comparison over the numbers, whatever the values are.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rag.documents import Scalar
from rag.filters import AllOf, Condition, Filter, bounds, typed
from rag.passages import Entry, PassageRow, Passages

MAX_COLUMNS = 64
"""Columns kept: 4 bytes a passage each."""

DOCUMENT_FIELDS = ("document_id", "title", "file")
"""Known of every document, whatever its own metadata says: a corpus row cannot pose as another file."""

PASSAGE_FIELDS = ("page", "line", "headings", "start", "end", "chunk")
"""Known of the chunk, not the document; asking for one reads all passages once."""

_MISSING = -1


class _Column(NamedTuple):
    values: list[tuple[int, Any]]
    """Distinct typed values, sorted."""
    numbers: NDArray[np.int32]
    """(passages,) place in `values`; -1 where the passage has no such field."""


class Fields:
    """The metadata of a version's passages. Thread-safe."""

    def __init__(self, passages: Passages) -> None:
        self._passages = passages
        self._counts = np.array([entry.count for entry in passages.entries], np.int64)
        self._known = {*DOCUMENT_FIELDS, *PASSAGE_FIELDS}.union(*(entry.metadata for entry in passages.entries))
        self._columns: OrderedDict[str, _Column] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """Every field that some passage may have, sorted."""
        return sorted(self._known)

    def allowed(self, filter: Filter | None) -> NDArray[np.bool_] | None:
        """(passages,) whether each row passes; None when there is no filter."""
        return None if filter is None else self._mask(filter)

    def _mask(self, filter: Filter) -> NDArray[np.bool_]:
        if isinstance(filter, Condition):
            return self._condition(filter)
        joined = np.logical_and if isinstance(filter, AllOf) else np.logical_or
        mask = self._mask(filter.filters[0])
        for one in filter.filters[1:]:
            mask = joined(mask, self._mask(one))
        return mask

    def _condition(self, filter: Condition) -> NDArray[np.bool_]:
        values, numbers = self._column(filter.key)
        if filter.type in ("gt", "gte", "lt", "lte"):
            first, last = bounds(filter, values)
            return (numbers >= first) & (numbers < last)
        wanted = np.zeros(len(values) + 1, np.bool_)  # the last place is for missing ones (-1)
        for value in map(typed, filter.values):
            at = _find(values, value)
            if at is not None:
                wanted[at] = True
        found: NDArray[np.bool_] = wanted[numbers]
        return ~found if filter.type in ("ne", "nin") else found

    def _column(self, key: str) -> _Column:
        if key not in self._known:
            # Not kept: names come from strangers.
            return _Column([], np.full(len(self._passages), _MISSING, np.int32))
        with self._lock:
            column = self._columns.get(key)
            if column is None:
                column = self._columns[key] = self._made(key)
                if len(self._columns) > MAX_COLUMNS:
                    self._columns.popitem(last=False)
            self._columns.move_to_end(key)
            return column

    def _made(self, key: str) -> _Column:
        if key not in PASSAGE_FIELDS:
            values, numbers = _encoded(document_field(entry, key) for entry in self._passages.entries)
            return _Column(values, np.repeat(numbers, self._counts))
        passages = self._passages
        rows = ((entry, n) for entry in passages.entries for n in range(entry.first, entry.first + entry.count))
        return _encoded(passage_field(entry, passages.row(n), key) for entry, n in rows)


def document_field(entry: Entry, key: str) -> Scalar | None:
    """One field of a document; None where it has none."""
    if key == "document_id":
        return entry.id
    if key == "title":
        return entry.title
    return entry.file if key == "file" else entry.metadata.get(key)


def passage_field(entry: Entry, row: PassageRow, key: str) -> Scalar | None:
    """One field of a passage: its own, else its document's; None where there is none."""
    value: Scalar | None = None
    if key == "headings":
        value = " > ".join(row["headings"]) or None
    elif key == "chunk":
        value = f"{entry.id}#{row['number']}"
    elif key in ("page", "line", "start", "end"):
        value = row[key]  # type: ignore[literal-required]
    return document_field(entry, key) if value is None else value


def _encoded(values: Iterable[Scalar | None]) -> _Column:
    given = [None if value is None else typed(value) for value in values]
    distinct = sorted({value for value in given if value is not None})
    number = {value: i for i, value in enumerate(distinct)}
    numbers = [_MISSING if value is None else number[value] for value in given]
    return _Column(distinct, np.array(numbers, np.int32))


def _find(values: list[tuple[int, Any]], value: tuple[int, Any]) -> int | None:
    at = bisect_left(values, value)
    return at if at < len(values) and values[at] == value else None
