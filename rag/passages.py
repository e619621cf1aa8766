"""The passages of one index version as plain files: text and place of every chunk, by row and by document.

`passages.jsonl` holds a chunk a line, `documents.jsonl` a document a line with the
rows it has. Both are written once and read through a memory map, so an index of any
size opens without being loaded.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypedDict

import numpy as np

from core.errors import ArtifactError
from core.types import Source
from rag.chunks import Chunk
from rag.documents import Scalar

WHOLE_TOKENS = 400
"""A document up to this length (tokens of the embedding model) is shown whole when one of its chunks is found."""


_BLOCK = 1 << 24


class PassageRow(TypedDict):
    """One line of passages.jsonl."""

    document_id: str
    number: int
    title: str
    headings: list[str]
    page: int | None
    line: int | None
    start: int
    end: int
    text: str
    context: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of documents.jsonl: a document and the rows its chunks have."""

    id: str
    title: str
    file: str
    """Id of the file it came from."""
    first: int
    count: int
    tokens: int
    metadata: dict[str, Scalar]


def passage_row(chunk: Chunk) -> PassageRow:
    return PassageRow(
        document_id=chunk.document_id,
        number=chunk.number,
        title=chunk.title,
        headings=list(chunk.headings),
        page=chunk.page,
        line=chunk.line,
        start=chunk.start,
        end=chunk.end,
        text=chunk.text,
        context=chunk.context,
        tokens=chunk.tokens,
    )


def embedded_text(row: PassageRow) -> str:
    """What is embedded and searched for a chunk: its title and headings, then its text."""
    return f"{row['context']}\n{row['text']}" if row["context"] else row["text"]


class PassageWriter:
    """Writes both files of a version in the making."""

    def __init__(self, folder: Path) -> None:
        self._passages = (folder / "passages.jsonl").open("w", encoding="utf-8", newline="\n")
        self._documents = (folder / "documents.jsonl").open("w", encoding="utf-8", newline="\n")
        self.rows = 0
        self.documents = 0

    def add(self, entry: Entry, rows: Sequence[PassageRow]) -> None:
        """Append a document; its rows are numbered on from those there are."""
        entry = replace(entry, first=self.rows)
        for row in rows:
            self._passages.write(_line(row))
        value = {name: getattr(entry, name) for name in Entry.__slots__}
        self._documents.write(_line(value))
        self.rows += len(rows)
        self.documents += 1

    def close(self) -> None:
        """Both files are on the disk when this returns."""
        for file in (self._passages, self._documents):
            if not file.closed:
                file.flush()
                os.fsync(file.fileno())
                file.close()

    def __enter__(self) -> PassageWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Passages:
    """The passages of a finished version. Safe to read from many threads."""

    def __init__(self, folder: Path) -> None:
        path = folder / "passages.jsonl"
        try:
            with path.open("rb") as file:
                self._map: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
            lines = (folder / "documents.jsonl").read_bytes().split(b"\n")[:-1]
            self.entries = [Entry(**json.loads(line)) for line in lines]
        except (OSError, ValueError, TypeError) as exc:
            raise ArtifactError(f"{folder}: the passages cannot be read ({exc})") from exc
        self._offsets = _line_starts(self._map)
        self._by_id = {entry.id: number for number, entry in enumerate(self.entries)}
        firsts = np.array([entry.first for entry in self.entries], np.int64)
        self._firsts = firsts

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @property
    def document_ids(self) -> list[str]:
        return list(self._by_id)

    def row(self, number: int) -> PassageRow:
        """The chunk in row `number`."""
        line = self._map[self._offsets[number] : self._offsets[number + 1]]
        row: PassageRow = json.loads(line)
        return row

    def entry_of(self, row: int) -> int:
        """Number of the document that row `row` belongs to."""
        return int(np.searchsorted(self._firsts, row, side="right")) - 1

    def find(self, document_id: str) -> Entry | None:
        number = self._by_id.get(document_id)
        return None if number is None else self.entries[number]

    def rows_of(self, entry: Entry) -> list[PassageRow]:
        return [self.row(number) for number in range(entry.first, entry.first + entry.count)]

    def whole(self, number: int) -> bool:
        """Whether document `number` is short enough to be shown whole."""
        return self.entries[number].tokens <= WHOLE_TOKENS

    def close(self) -> None:
        if not isinstance(self._map, bytes):
            self._map.close()


def joined(rows: Sequence[PassageRow]) -> str:
    """The text of neighbouring chunks of one document; "..." stands where chunks between them are left out."""
    pieces: list[str] = []
    for before, row in zip((None, *rows), rows, strict=False):
        if before is not None:
            near = row["number"] == before["number"] + 1
            # One blank between two chunks means they were cut within a paragraph.
            pieces.append((" " if row["start"] - before["end"] <= 1 else "\n\n") if near else "\n\n...\n\n")
        pieces.append(row["text"])
    return "".join(pieces)


def source(entry: Entry, rows: Sequence[PassageRow], number: int, score: float) -> Source:
    """Neighbouring chunks of a document as the passage `number` of a prompt."""
    first, last = rows[0], rows[-1]
    metadata: dict[str, Scalar] = {**entry.metadata, "file": entry.file, "start": first["start"], "end": last["end"]}
    if first["headings"] and len(rows) == 1:
        metadata["headings"] = " > ".join(first["headings"])
    if first["page"] is not None:
        metadata["page"] = first["page"]
    if first["line"] is not None:
        metadata["line"] = first["line"]
    metadata["chunk"] = f"{entry.id}#{first['number']}"
    return Source(number, entry.id, entry.title, joined(rows), score, metadata)


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


def _line_starts(data: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    starts = [np.zeros(1, np.int64)]
    for at in range(0, len(data), _BLOCK):
        block = np.frombuffer(data[at : at + _BLOCK], np.uint8)
        starts.append(np.flatnonzero(block == 10).astype(np.int64) + at + 1)
    return np.concatenate(starts)
