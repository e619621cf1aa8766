"""Readers: one file a format, all giving `Document`s. All but the corpus reader run in the parser process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import DataError
from rag.documents import FORMATS, Document, Found

if TYPE_CHECKING:
    from rag.readers.contained import Parser

VERSION = 3
"""Raise it when a reader gives other text for the same file: unchanged files are then read anew."""


def format_of(path: Path) -> str:
    return FORMATS.get(path.suffix.lower(), "plain")


def read_file(file: Found, parser: Parser) -> Iterator[Document]:
    """Documents of one file, at least one. A corpus JSONL is streamed, after a first pass over all its rows.

    Raises:
        DataError: the file cannot be read; raised before the first document, so none of it is taken.
    """
    kind = format_of(file.path)
    if kind == "rows":
        from rag.readers import rows

        rows.check(file.path, file.id)
        yield from rows.read(file.path, file.id)
        return
    documents = parser.read(kind, file.path, file.id)
    if not any(one.text.strip() for one in documents):
        raise DataError("holds no text", file.path)
    yield from documents


def parse(kind: str, path: Path, id: str) -> Iterable[Document]:
    """Documents of one file, read in this process by the reader `kind`."""
    if kind == "plain":
        from rag.readers import plain

        return [plain.read(path, id)]
    if kind == "markdown":
        from rag.readers import markdown

        return [markdown.read(path, id)]
    if kind == "code":
        from rag.readers import code

        return [code.read(path, id)]
    if kind == "table":
        from rag.readers import table

        return table.read(path, id)
    if kind == "json":
        from rag.readers import rows

        return rows.read_json(path, id)
    if kind == "html":
        from rag.readers import html

        return [html.read(path, id)]
    if kind == "pdf":
        from rag.readers import pdf

        return [pdf.read(path, id)]
    if kind == "docx":
        from rag.readers import docx

        return [docx.read(path, id)]
    if kind == "pptx":
        from rag.readers import pptx

        return [pptx.read(path, id)]
    if kind == "xlsx":
        from rag.readers import xlsx

        return [xlsx.read(path, id)]
    if kind == "mail":
        from rag.readers import mail

        return [mail.read(path, id)]
    raise ValueError(f"no reader {kind!r}")
