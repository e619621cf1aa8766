"""The scorer `sql`: the same query by canonical form, or the same result on a SQLite database."""

from __future__ import annotations

import re
import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from advisor.scorers.base import Value
from advisor.scorers.structured import fenced
from core.errors import ConfigError, DataError
from core.rows import Row

TIMEOUT_S = 5.0
MAX_ROWS = 100_000
MAX_CELL_BYTES = 10_000_000
"""A model's query is somebody else's code: it may read, within these bounds, and nothing else."""

_VERB = (
    r"(?:select\b|insert\s+into\b|update\s+\S+\s+set\b|delete\s+from\b|create\s+(?:table|view|index)\b"
    r"|with\s+(?:recursive\s+)?\S+\s*(?:\([^)]*\)\s*)?as\s*\()"
)
_LINE_START = re.compile(rf"^\s*{_VERB}", re.IGNORECASE | re.MULTILINE)
_START = re.compile(rf"\b{_VERB}", re.IGNORECASE)
_STATEMENT = re.compile(r"""(?:'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|--[^\n]*|(?!\n\s*\n)[^;'"`])*""")
_TOKEN = re.compile(
    r"""--[^\n]* | /\*.*?\*/                                # comments
      | '(?:[^']|'')*' | "(?:[^"]|"")*" | `[^`]*`      # quoted text or name
      | <=|>=|<>|!=|==|[=<>(),;*]                      # signs
      | [^\s=<>!(),;*'"`]+(?:\([^()\s]*\)[^\s=<>!(),;*'"`]+)*   # words; also column names with brackets, X_(Y)_Z
      | \S """,
    re.VERBOSE | re.DOTALL,
)
_KEYWORDS = frozenset(
    [
        "as",
        "on",
        "where",
        "join",
        "inner",
        "left",
        "right",
        "outer",
        "cross",
        "natural",
        "group",
        "order",
        "having",
        "limit",
        "offset",
        "union",
        "except",
        "intersect",
        "set",
        "values",
        "using",
        "and",
        "or",
    ]
)
_AGGREGATES = frozenset(["count", "sum", "min", "max", "avg"])
_ENDS_WHERE = frozenset(["group", "order", "having", "limit", "offset", "union", "except", "intersect"])


def extract_sql(answer: str) -> str:
    """The query in `answer`: from a code fence, else from the first SQL verb to ';' or a blank line.

    A verb that begins a line is preferred: "To select the rows, use:" is no query.
    """
    text = fenced(answer)
    start = _LINE_START.search(text) or _START.search(text)
    if start is None:
        return ""
    rest = text[start.start() :].lstrip()
    match = _STATEMENT.match(rest)
    if match is not None and (match.end() == len(rest) or rest[match.end()] in ";\n"):
        return match[0].strip()
    # A quote that does not end, as in names that sets such as WikiSQL write without any.
    return re.split(r";|\n\s*\n", rest, maxsplit=1)[0].strip()


def sql(database: str = "") -> Value:
    """Value function of `sql[:DATABASE]`: 1 for a gold query by canonical form, or by its result on the SQLite file.

    Raises:
        ConfigError: there is no such database.
        DataError: (from the value function) a gold query does not run on the database.
    """
    if not database:
        return lambda answer, row: float(canonical(answer) in [canonical(gold) for gold in row.answers])
    path = Path(database)
    if not path.is_file():
        raise ConfigError(f"scorer `sql:{database}`: there is no such SQLite file")

    def value(answer: str, row: Row) -> float:
        query = extract_sql(answer)
        if not query:
            return 0.0
        golds = [extract_sql(gold) for gold in row.answers]
        try:
            wanted = [_run(path, gold) for gold in golds]
        except sqlite3.Error as exc:
            raise DataError(f"row {row.id!r}: the gold query does not run on {path}: {exc}", line=row.line) from exc
        try:
            found = _run(path, query)
        except sqlite3.Error:
            return 0.0
        return float(any(_same(found, rows, gold) for rows, gold in zip(wanted, golds, strict=True)))

    return value


def canonical(text: str) -> tuple[str, ...]:
    """Tokens of the query in `text` with the differences that do not matter taken out; () where there is none.

    Case, white space, comments, quotes, `<>`, a final ';', `MAX(x)` for `MAX x`, aliases of tables and columns, `ASC`,
    `INNER`, and the order of AND-ed conditions do not matter. Case inside texts does not either: sets such as WikiSQL copy it from the question.
    """
    found = [token for token in _TOKEN.findall(extract_sql(text)) if not token.startswith(("--", "/*"))]
    words = [_plain(token) for token in found if token.casefold() not in (";", "inner", "outer", "asc")]
    return tuple(_sorted_conditions(_bare_aggregates(_without_aliases(_unnamed_columns(words)))))


def _unnamed_columns(words: Sequence[str]) -> list[str]:
    """`SELECT a AS x, b FROM` as `SELECT a, b FROM`: the result is the same, whatever its columns are called."""
    kept: list[str] = []
    selecting, at = False, 0
    while at < len(words):
        word = words[at]
        selecting = word == "select" or (selecting and word != "from")
        if selecting and word == "as" and words[at + 2 : at + 3] in ([","], ["from"]):
            at += 2
            continue
        kept.append(word)
        at += 1
    return kept


def _plain(token: str) -> str:
    if token[0] in "'\"`" and len(token) > 1:
        token = " ".join(token[1:-1].replace(token[0] * 2, token[0]).split())
    return {"<>": "!=", "==": "="}.get(token, token.casefold())


def _without_aliases(words: Sequence[str]) -> list[str]:
    """`FROM t AS a ... a.x` as `FROM t ... t.x`; with one table `x` alone."""
    aliases: dict[str, str] = {}
    tables: list[str] = []
    kept: list[str] = []
    at, in_from = 0, False
    while at < len(words):
        word = words[at]
        kept.append(word)
        at += 1
        if word in ("from", "join") or (word == "," and in_from):
            in_from = True
            if at < len(words) and words[at] != "(":
                tables.append(words[at])
                kept.append(words[at])
                at += 1
                named = at + 1 if words[at : at + 1] == ["as"] else at
                if named < len(words) and words[named].isidentifier() and words[named] not in _KEYWORDS:
                    aliases[words[named]] = tables[-1]
                    at = named + 1
        elif word in _KEYWORDS:
            in_from = False
    single = len(set(tables)) == 1

    def resolved(word: str) -> str:
        prefix, dot, column = word.partition(".")
        table = aliases.get(prefix, prefix)
        if not dot or not column or (table not in tables):
            return word
        return column if single else f"{table}.{column}"

    return [resolved(word) for word in kept]


def _bare_aggregates(words: Sequence[str]) -> list[str]:
    kept: list[str] = []
    at = 0
    while at < len(words):
        if words[at] in _AGGREGATES and words[at + 1 : at + 2] == ["("] and words[at + 3 : at + 4] == [")"]:
            kept += [words[at], words[at + 2]]
            at += 4
        else:
            kept.append(words[at])
            at += 1
    return kept


def _sorted_conditions(words: Sequence[str]) -> list[str]:
    if words.count("where") != 1:
        return list(words)
    start = words.index("where") + 1
    end = next((i for i in range(start, len(words)) if words[i] in _ENDS_WHERE), len(words))
    inside = words[start:end]
    if "or" in inside or "between" in inside or "(" in inside:
        return list(words)
    conditions: list[list[str]] = [[]]
    for word in inside:
        if word == "and":
            conditions.append([])
        else:
            conditions[-1].append(word)
    ordered = [word for condition in sorted(conditions) for word in ("and", *condition)][1:]
    return [*words[:start], *ordered, *words[end:]]


def _run(path: Path, query: str) -> list[tuple[Any, ...]]:
    """Rows of a read-only query.

    Raises:
        sqlite3.Error: it fails, writes, takes too long or returns too much.
    """
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_CELL_BYTES)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        connection.set_authorizer(_reads_only)
        give_up = time.monotonic() + TIMEOUT_S
        connection.set_progress_handler(lambda: time.monotonic() > give_up, 10_000)
        rows = connection.execute(query).fetchmany(MAX_ROWS + 1)
    finally:
        connection.close()
    if len(rows) > MAX_ROWS:
        raise sqlite3.DataError(f"more than {MAX_ROWS} rows")
    return rows


def _reads_only(action: int, first: str | None, second: str | None, _database: str | None, _trigger: str | None) -> int:
    allowed = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE)
    if action in allowed or (action == sqlite3.SQLITE_FUNCTION and second != "load_extension"):
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


def _same(found: Sequence[tuple[Any, ...]], wanted: Sequence[tuple[Any, ...]], gold: str) -> bool:
    a, b = [tuple(map(_cell, row)) for row in found], [tuple(map(_cell, row)) for row in wanted]
    return a == b if re.search(r"\border\s+by\b", gold, re.IGNORECASE) else Counter(a) == Counter(b)


def _cell(value: Any) -> Any:
    return float(f"{value:.9g}") if isinstance(value, float) else value
