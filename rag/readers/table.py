"""CSV and TSV: a corpus when there is a text column, else one document with a line a row."""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path

from core.errors import DataError
from rag.documents import Document
from rag.readers.encoding import read_text
from rag.readers.rows import ID_FIELDS, TEXT_FIELDS, document, row_id

_MAX_CELL = 1 << 30


def read(path: Path, id: str) -> list[Document]:
    """The rows as documents (`id`, `title`, `text` columns) or the table as one, each row as `column: value; ...`.

    Raises:
        DataError: not a table, or a doubled id.
    """
    text, _ = read_text(path)
    header = text.lstrip("\n").split("\n", 1)[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)
    limit = csv.field_size_limit(_MAX_CELL)
    try:
        cells = [row for row in csv.reader(StringIO(text, newline=""), delimiter=delimiter) if any(row)]
    except csv.Error as exc:
        raise DataError(f"is not valid CSV ({exc})", path) from exc
    finally:
        csv.field_size_limit(limit)
    names = [name.strip() for name in cells[0]]
    rows = [dict(zip(names, (cell.strip() for cell in row), strict=False)) for row in cells[1:]]
    if any(name.lower() in TEXT_FIELDS for name in names) and any(name.lower() in ID_FIELDS for name in names):
        return _corpus([{key.lower(): value for key, value in row.items()} for row in rows], path, id)
    if not rows:
        return [Document(id, path.stem, "; ".join(names))]
    lines = ["; ".join(f"{name}: {value}" if name else value for name, value in row.items() if value) for row in rows]
    return [Document(id, path.stem, "\n".join(line for line in lines if line))]


def _corpus(rows: list[dict[str, str]], path: Path, id: str) -> list[Document]:
    documents: dict[str, Document] = {}
    for number, row in enumerate(rows, start=2):
        one = document(row, row_id(row, id, number))
        if one.id in documents:
            raise DataError(f"row {number} has the id {one.id!r} that an earlier one has; ids must differ", path)
        documents[one.id] = one
    return list(documents.values())
