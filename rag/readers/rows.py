"""Corpus JSONL and JSON: one document a row, `{"id"|"_id", "title", "text", ...metadata}`.

A corpus can be larger than memory: it is checked in one pass and read in a second, never held whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from core.errors import DataError
from rag.documents import Document, Scalar
from rag.readers.encoding import decoded, read_bytes

ID_FIELDS = ("id", "_id", "doc_id", "docid")
TEXT_FIELDS = ("text", "contents", "content", "body", "passage")
TITLE_FIELDS = ("title", "name", "heading")
_INT64 = 2**63


def check(path: Path, id: str) -> list[str]:
    """Ids of all documents of a corpus JSONL, in order, once every row has proved readable.

    Raises:
        DataError: a row is not a JSON object, or has an id that an earlier one has; names the line.
    """
    lines: dict[str, int] = {}
    for number, row in _rows(path):
        own = row_id(row, id, number)
        if own in lines:
            raise DataError(f"the id {own!r} is on line {lines[own]} already; ids must differ", path, number)
        lines[own] = number
    if not lines:
        raise DataError("is empty", path)
    return list(lines)


def read(path: Path, id: str) -> Iterator[Document]:
    """Documents of a corpus JSONL, one at a time. Rows without an id go by the file's id and their line."""
    for number, row in _rows(path):
        yield document(row, row_id(row, id, number))


def read_json(path: Path, id: str) -> list[Document]:
    """Documents of a JSON file: an array of objects is a corpus, anything else one document of `path: value` lines."""
    text, _ = decoded(read_bytes(path), path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as exc:
        line = exc.lineno if isinstance(exc, json.JSONDecodeError) else None
        raise DataError(f"is not valid JSON ({getattr(exc, 'msg', 'nested too deep')})", path, line) from exc
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        documents = [document(row, row_id(row, id, number)) for number, row in enumerate(value, start=1)]
        seen: set[str] = set()
        for number, one in enumerate(documents, start=1):
            if one.id in seen:
                raise DataError(f"item {number} has the id {one.id!r} that an earlier one has; ids must differ", path)
            seen.add(one.id)
        return documents
    lines = list(_flat(value, ""))
    if not lines:
        raise DataError("holds no values", path)
    return [Document(id, path.stem, "\n".join(lines))]


def document(row: Mapping[str, Any], id: str) -> Document:
    """One row as a document. A row without a text field is read as `field: value` lines."""
    title_key = next((key for key in TITLE_FIELDS if isinstance(row.get(key), str)), None)
    text_key = next((key for key in TEXT_FIELDS if isinstance(row.get(key), str)), None)
    title = " ".join(_proper(str(row[title_key])).split()) if title_key else ""
    if text_key is None:
        rest = {key: value for key, value in row.items() if key not in (*ID_FIELDS, title_key)}
        return Document(id, title, "\n".join(_flat(rest, "")))
    known = {*ID_FIELDS, title_key, text_key}
    metadata = {str(key): _scalar(value) for key, value in row.items() if key not in known and value is not None}
    return Document(id, title, _proper(str(row[text_key])).removeprefix("\ufeff"), (), metadata)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError:
                    text = decoded(line, path).text
                try:
                    row = json.loads(text)
                except (ValueError, RecursionError) as exc:
                    what = f"{exc.msg} at column {exc.colno}" if isinstance(exc, json.JSONDecodeError) else str(exc)
                    raise DataError(f"is not valid JSON ({what}): {text.strip()[:60]}", path, number) from exc
                if not isinstance(row, dict):
                    raise DataError('a row must be an object {"id", "title", "text"}', path, number)
                yield number, row
    except OSError as exc:
        raise DataError(f"cannot be read ({exc.strerror})", path) from exc


def row_id(row: Mapping[str, Any], file_id: str, number: int) -> str:
    for key in ID_FIELDS:
        value = row.get(key)
        if isinstance(value, (str, int)) and not isinstance(value, bool) and str(value).strip():
            return _proper(str(value).strip())
    return f"{file_id}#{number}"


def _scalar(value: Any) -> Scalar:
    """A value that Chroma can hold as metadata: text, a 64-bit integer, a finite number or a boolean."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and -_INT64 <= value < _INT64:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return _proper(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _proper(text: str) -> str:
    """`text` with halves of surrogate pairs (which JSON can hold and UTF-8 cannot) replaced by "?"."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _flat(value: Any, where: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        if all(not isinstance(item, (dict, list)) for item in value):
            if value:
                yield _line(where, ", ".join(str(item) for item in value))
        else:
            for number, item in enumerate(value):
                yield from _flat(item, f"{where}[{number}]")
    elif value is not None and value != "":
        yield _line(where, str(value))


def _line(where: str, value: str) -> str:
    return _proper(f"{where}: {value}" if where else value)
