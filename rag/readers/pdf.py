"""PDF: the text layer, page by page. A scan without one is said to be one, not passed off as empty."""

from __future__ import annotations

import re
from pathlib import Path

from core.errors import DataError
from rag.documents import Document
from rag.readers.encoding import read_bytes
from rag.readers.outline import Outline

MAX_PAGES = 20_000

_HYPHENATED = re.compile(r"(\w)[-\u00ad]\n(?=[a-z])")


def read(path: Path, id: str) -> Document:
    """The document's text with page numbers; title from its properties, else its file name.

    Raises:
        DataError: not a PDF, damaged, encrypted, too long, or without a text layer.
    """
    import io
    import logging

    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    data = read_bytes(path)
    if b"%PDF-" not in data[:1024]:
        raise DataError("is not a PDF file (no %PDF header)", path)
    outline = Outline()
    try:
        pdf = PdfReader(io.BytesIO(data))
        if pdf.is_encrypted and not pdf.decrypt(""):
            raise DataError("is encrypted; save it without its password", path)
        pages = len(pdf.pages)
        if pages > MAX_PAGES:
            raise DataError(f"has {pages} pages, over the limit of {MAX_PAGES}", path)
        for number, page in enumerate(pdf.pages, start=1):
            outline.page(number)
            outline.block(_HYPHENATED.sub(r"\1", page.extract_text()))
        title = (pdf.metadata.title if pdf.metadata else None) or path.stem
    except DataError:
        raise
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError, OSError, RecursionError) as exc:
        # pypdf meets garbled files with whatever error the garbage leads to.
        raise DataError(
            f"is a damaged PDF ({type(exc).__name__}: {str(exc).splitlines()[0] if str(exc) else ''})", path
        ) from exc
    if outline.empty:
        raise DataError(
            f"has no text layer on its {pages} page{'s' * (pages != 1)} (a scan? run OCR on it first)", path
        )
    return outline.document(id, str(title), {"pages": pages})
