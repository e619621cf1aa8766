"""Records of a data file: JSONL, a JSON array, CSV, TSV or Parquet, each with the line it starts on.

What the fields mean is the reader's business (`core.rows`, outcome tables); this
file knows only containers, encodings and how they break.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from core.errors import DataError, MissingExtra

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".tab", ".parquet")

_LINE_END = re.compile(r"\r\n|\n|\r")
_MAX_CELL = 1 << 30
"""Characters. The csv module's own limit of 131,072 is less than one long document."""


class Record(NamedTuple):
    line: int
    """1-based line on which the record starts; for Parquet the row number."""
    fields: dict[str, Any]


def read_records(path: Path) -> list[Record]:
    """Every record of `path`, in file order; at least one.

    The container is known by its suffix, else by its first character. A UTF-8 BOM, CRLF and blank lines are
    tolerated. Values keep the types the container has: CSV and TSV give text only, an empty cell gives None.

    Raises:
        DataError: the file is missing, empty, binary, not UTF-8, or broken at a line.
        MissingExtra: Parquet without pyarrow.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        records = _parquet(path)
    else:
        text = read_utf8(path)
        if suffix in (".csv", ".tsv", ".tab"):
            records = _csv(text, path, suffix)
        elif suffix in SUFFIXES or text.lstrip()[:1] in ("{", "["):
            records = _json(text, path)
        else:
            raise DataError(
                f"cannot tell the format from the name {path.name!r}; use one of {', '.join(SUFFIXES)}", path
            )
    if not records:
        raise DataError("has a header and no rows" if suffix in (".csv", ".tsv", ".tab") else "has no rows", path)
    return records


def read_utf8(path: Path) -> str:
    """The text of `path`, without a BOM; it has at least one visible character.

    Raises:
        DataError: the file cannot be read, is empty, binary, or not UTF-8 (with the line).
    """
    data = _bytes(path)
    if not data.strip():
        raise DataError("is empty", path)
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError("is UTF-16; save it as UTF-8", path)
    if b"\x00" in data:
        raise DataError("is binary, not text (it holds zero bytes)", path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = len(_LINE_END.findall(data[: exc.start].decode("latin-1"))) + 1
        raise DataError(f"is not UTF-8 (byte 0x{data[exc.start]:02x}); save it as UTF-8", path, line) from exc
    if not text.strip():
        raise DataError("is empty", path)
    return text


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as exc:
        raise DataError("there is no such file", path) from exc
    except IsADirectoryError as exc:
        raise DataError("is a folder; name the file in it", path) from exc
    except OSError as exc:
        raise DataError(f"cannot be read ({exc.strerror})", path) from exc


def _json(text: str, path: Path) -> list[Record]:
    start = len(text) - len(text.lstrip())
    if text[start] == "[":
        return list(_array(text, start, path))
    records, lines = [], _LINE_END.split(text)
    for line, part in enumerate(lines, start=1):
        if not part or part.isspace():
            continue
        try:
            value = json.loads(part)
        except (ValueError, RecursionError) as exc:
            raise _line_fault(lines, line, exc, path) from exc
        records.append(_object(value, part, path, line))
    return records


def _array(text: str, start: int, path: Path) -> Iterator[Record]:
    """Records of one JSON array, decoded item by item so that each knows its line."""
    decoder = json.JSONDecoder()
    blank = re.compile(r"\s*")
    position, line, counted = start + 1, 1, 0

    def skip(at: int) -> int:
        match = blank.match(text, at)
        assert match is not None
        return match.end()

    def line_of(at: int) -> int:
        nonlocal line, counted
        line += text.count("\n", counted, at)
        counted = at
        return line

    position = skip(position)
    while text[position : position + 1] != "]":
        try:
            value, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as exc:
            at = exc.pos if isinstance(exc, json.JSONDecodeError) else position
            raise DataError(f"not valid JSON: {_reason(exc)}", path, line_of(at)) from exc
        yield _object(value, text[position:end], path, line_of(position))
        position = skip(end)
        if text[position : position + 1] == ",":
            position = skip(position + 1)
        elif text[position : position + 1] != "]":
            raise DataError("not valid JSON: a ',' or the closing ']' is missing", path, line_of(position))
    rest = skip(position + 1)
    if rest != len(text):
        raise DataError("not valid JSON: there is more after the closing ']'", path, line_of(rest))


def _object(value: Any, source: str, path: Path, line: int) -> Record:
    if not isinstance(value, dict):
        raise DataError(f"a row must be a JSON object {{...}}, not {kind(value)}", path, line)
    if "\\ud" in source.lower():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as exc:
            raise DataError(
                "holds half of a surrogate pair (\\ud8xx alone), which is no character", path, line
            ) from exc
    return Record(line, value)


def _line_fault(lines: Sequence[str], line: int, exc: Exception, path: Path) -> DataError:
    """What is wrong with a line of JSONL; where an object goes on below it, with that object."""
    shown = lines[line - 1].strip()
    below = next((part.strip() for part in lines[line:] if part.strip()), "")
    ended = not isinstance(exc, json.JSONDecodeError) or exc.pos < len(lines[line - 1].rstrip())
    if ended or below[:1] in ("{", ""):
        text = f"not valid JSON: {_reason(exc)}: {shown[:60]}{'...' if len(shown) > 60 else ''}"
        return DataError(text, path, line)
    try:
        json.JSONDecoder().raw_decode("\n".join([shown, *lines[line:]]))
    except json.JSONDecodeError as inner:
        text = f"not valid JSON: {_reason(inner)}, in the object that begins on line {line}"
        return DataError(text, path, line + inner.lineno - 1)
    except (ValueError, RecursionError) as inner:
        return DataError(f"not valid JSON: {_reason(inner)}", path, line)
    return DataError(
        "one JSON object over many lines; write one row a line (JSONL) or an array [{...}, ...]", path, line
    )


def _reason(exc: Exception) -> str:
    if isinstance(exc, json.JSONDecodeError):
        return f"{exc.msg} at column {exc.colno}"
    # Beside syntax, json.loads refuses only numbers of over 4,300 digits.
    return "nested too deep" if isinstance(exc, RecursionError) else "a number has too many digits"


def _csv(text: str, path: Path, suffix: str) -> list[Record]:
    header = _LINE_END.split(text.lstrip("\r\n"), maxsplit=1)[0]
    # Excel writes ';' wherever the decimal sign is ','. Many .tsv files are right, some .csv files hold tabs.
    delimiter = "\t" if suffix != ".csv" else max(",;\t", key=header.count)
    try:
        return list(_cells(text, path, delimiter, csv.QUOTE_MINIMAL))
    except _QuotingError as exc:
        if delimiter == "\t":
            # Tab-separated files often follow no quoting rule at all: a '"' is then just a character.
            return list(_cells(text, path, delimiter, csv.QUOTE_NONE))
        raise DataError(f"not valid CSV: {exc}; write a '\"' inside a value twice", path, exc.line) from exc


class _QuotingError(ValueError):
    def __init__(self, text: str, line: int) -> None:
        super().__init__(text)
        self.line = line


def _cells(text: str, path: Path, delimiter: str, quoting: Any) -> Iterator[Record]:
    limit = csv.field_size_limit(_MAX_CELL)
    end = 0
    try:
        reader = csv.reader(StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
        names: list[str] | None = None
        for cells in reader:
            line, end = end + 1, reader.line_num
            if not any(cell.strip() for cell in cells):
                continue
            if names is None:
                names = _header(cells, path, line)
                continue
            if len(cells) != len(names):
                raise DataError(f"has {len(cells)} values, the header names {len(names)} columns", path, line)
            fields = {name: cell if cell.strip() else None for name, cell in zip(names, cells, strict=True) if name}
            yield Record(line, fields)
    except csv.Error as exc:
        raise _QuotingError("a quoted value does not end" if "end of data" in str(exc) else str(exc), end + 1) from exc
    finally:
        csv.field_size_limit(limit)


def _header(cells: list[str], path: Path, line: int) -> list[str]:
    names = [cell.strip() for cell in cells]
    doubled = sorted({name for name in names if name and names.count(name) > 1})
    if doubled:
        raise DataError(f"the header names the column {doubled[0]!r} twice", path, line)
    return names


def _parquet(path: Path) -> list[Record]:
    if not _bytes(path):
        raise DataError("is empty", path)
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as exc:
        raise MissingExtra("reading Parquet", "parquet") from exc
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as exc:
        raise DataError(f"not a Parquet file that can be read: {str(exc).splitlines()[0]}", path) from exc
    return [Record(number, fields) for number, fields in enumerate(table.to_pylist(), start=1)]


def kind(value: object) -> str:
    """What a JSON value is, in a reader's words: `text`, `a number`, `a list`, ..."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list | tuple) else "an object"
