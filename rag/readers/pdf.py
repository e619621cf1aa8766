"""PDF: the text layer, page by page, under the headings of its table of contents.

PDFium reads it, not pypdf: on the Debian FAQ, pypdf 7.1 runs words together
("tofreedom,notprice"), and takes twelve times as long.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from core.errors import DataError
from rag.documents import Document
from rag.readers.encoding import read_bytes
from rag.readers.facts import facts
from rag.readers.outline import Outline

MAX_PAGES = 20_000

_WRAPPED = re.compile("[\u0002\ufffe]\\s*")
"""PDFium's sign for a hyphen that only wraps a word."""
_HYPHENATED = re.compile(r"(?<=[^\W\d_]{2})[-\u00ad]\n(?=[a-z])")


def read(path: Path, id: str) -> Document:
    """The document's text with page numbers; title from its properties, else its file name.

    Raises:
        DataError: not a PDF, damaged, encrypted, too long, or without a text layer.
    """
    import pypdfium2

    data = read_bytes(path)
    if b"%PDF-" not in data[:1024]:
        raise DataError("is not a PDF file (no %PDF header)", path)
    try:
        pdf = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as exc:
        if "password" in str(exc).lower():
            raise DataError("is encrypted; save it without its password", path) from exc
        raise DataError(f"is a damaged PDF ({exc})", path) from exc
    try:
        outline = _text(pdf, path)
        about = pdf.get_metadata_dict()
        pages = len(pdf)
    except pypdfium2.PdfiumError as exc:
        raise DataError(f"is a damaged PDF ({exc})", path) from exc
    finally:
        pdf.close()
    if outline.empty:
        scan = "(a scan? run OCR on it first)"
        raise DataError(f"has no text layer on its {pages} page{'s' * (pages != 1)} {scan}", path)
    known = facts(created=about.get("CreationDate"), modified=about.get("ModDate"), author=about.get("Author"))
    return outline.document(id, about.get("Title", "").strip() or path.stem, {"pages": pages, **known})


def _text(pdf: Any, path: Path) -> Outline:
    if len(pdf) > MAX_PAGES:
        raise DataError(f"has {len(pdf)} pages, over the limit of {MAX_PAGES}", path)
    contents: dict[int, list[tuple[int, str]]] = {}
    for entry in pdf.get_toc():
        target = entry.get_dest()
        index = target.get_index() if target is not None else None
        if index is not None:
            contents.setdefault(index, []).append((entry.level + 1, entry.get_title()))
    outline = Outline()
    for index in range(len(pdf)):
        page = pdf[index]
        text_page = page.get_textpage()
        text = text_page.get_text_bounded().replace("\r\n", "\n").replace("\r", "\n")
        text_page.close()
        page.close()
        outline.page(index + 1)
        _page(outline, _HYPHENATED.sub("", _WRAPPED.sub("", text)), contents.get(index, []))
    return outline


def _page(outline: Outline, text: str, entries: list[tuple[int, str]]) -> None:
    """One page's text, cut where the entries of the table of contents that point to it stand."""
    at = 0
    for level, title in entries:
        words = title.split()
        if not words:
            continue
        # Chapter numbers stand in the text or in the entry, not always in both; line breaks fall anywhere.
        found = re.compile(r"^[^\S\n]*(?:[\dA-Z.]+\s+)?" + r"\s+".join(map(re.escape, words)), re.MULTILINE).search(
            text, at
        )
        if found:
            outline.block(text[at : found.start()])
            at = found.start()
        outline.enter(level, title)
    outline.block(text[at:])
