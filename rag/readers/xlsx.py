"""Excel: sheet by sheet, each row as `column: value; ...` under the names of the sheet's first row."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time
from itertools import zip_longest
from pathlib import Path
from typing import Any

from core.errors import DataError
from rag.documents import Document
from rag.readers.archive import refuse_zip_bomb
from rag.readers.facts import facts
from rag.readers.outline import Outline

MAX_CELLS = 5_000_000


def read(path: Path, id: str) -> Document:
    """The sheets' values as shown; a formula that was saved without its value is given as the formula.

    Raises:
        DataError: not a workbook, a zip bomb, too many cells, or empty.
    """
    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    refuse_zip_bomb(path)
    # Links to other workbooks are not followed, nor kept.
    options: dict[str, Any] = {"read_only": True, "keep_links": False}
    try:
        values = load_workbook(path, data_only=True, **options)
        formulas = load_workbook(path, data_only=False, **options) if _has_formulas(path) else None
    except (InvalidFileException, KeyError, ValueError, SyntaxError, TypeError, AttributeError) as exc:
        raise DataError("is not an Excel workbook (.xlsx) that can be read", path) from exc
    outline = Outline()
    left = MAX_CELLS
    for sheet in values.worksheets:
        outline.heading(1, sheet.title)
        names: list[str] = []
        for cells in _rows(sheet, None if formulas is None else formulas[sheet.title]):
            left -= len(cells)
            if left < 0:
                raise DataError(f"has over {MAX_CELLS:,} cells; save the sheets as CSV or corpus JSONL", path)
            if any(cells):
                if names:
                    outline.line(_line(names, cells))
                else:
                    names = cells
                    outline.block("; ".join(filter(None, cells)))
    about = values.properties
    known = facts(created=about.created, modified=about.modified, language=about.language, author=about.creator)
    sheets = len(values.worksheets)
    values.close()
    if formulas is not None:
        formulas.close()
    if outline.empty or left == MAX_CELLS:
        raise DataError("has no values in its sheets", path)
    return outline.document(id, about.title or path.stem, {"sheets": sheets, **known})


def _rows(sheet: Any, formulas: Any | None) -> Iterator[list[str]]:
    # What the file says of a sheet's size can be anything: up to 16 billion empty cells would be made of it.
    sheet.reset_dimensions()
    if formulas is None:
        for row in sheet.iter_rows(values_only=True):
            yield [_text(value) for value in row]
        return
    formulas.reset_dimensions()
    for row, written in zip_longest(
        sheet.iter_rows(values_only=True), formulas.iter_rows(values_only=True), fillvalue=()
    ):
        pairs = zip_longest(row, written)
        yield [_text(formula if value is None else value) for value, formula in pairs]


def _line(names: Sequence[str], cells: Sequence[str]) -> str:
    pairs = zip_longest(names[: len(cells)], cells, fillvalue="")
    return "; ".join(f"{name}: {cell}" if name else cell for name, cell in pairs if cell)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat(" ") if value.time() != time() else value.date().isoformat()
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return " ".join(str(value).split())


def _has_formulas(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.startswith("xl/worksheets/") and name.endswith(".xml"):
                with archive.open(name) as part:
                    tail = b""
                    while block := part.read(1 << 20):
                        if b"<f>" in tail + block or b"<f " in tail + block:
                            return True
                        tail = block[-2:]
    return False
