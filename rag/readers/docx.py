"""Word documents: paragraphs, headings and tables, in order."""

from __future__ import annotations

import re
from pathlib import Path

from core.errors import DataError
from rag.documents import Document
from rag.readers.archive import refuse_zip_bomb
from rag.readers.facts import facts
from rag.readers.outline import Outline


def read(path: Path, id: str) -> Document:
    """The document's body; title from its properties, its first heading, or its file name.

    Raises:
        DataError: not a Word document, a zip bomb, or without text.
    """
    import docx
    from docx.opc.exceptions import PackageNotFoundError
    from docx.table import Table
    from docx.text.paragraph import Paragraph

    refuse_zip_bomb(path)
    try:
        word = docx.Document(str(path))
    except (PackageNotFoundError, KeyError, ValueError, SyntaxError) as exc:
        raise DataError("is not a Word document (.docx) that can be read", path) from exc
    outline = Outline()
    for item in word.iter_inner_content():
        if isinstance(item, Table):
            for row in item.rows:
                cells = list(dict.fromkeys(" ".join(cell.text.split()) for cell in row.cells))
                outline.line(" | ".join(cell for cell in cells if cell))
        elif isinstance(item, Paragraph):
            style = item.style.name if item.style is not None and item.style.name else ""
            level = re.match(r"Heading (\d)", style)
            if level or style == "Title":
                outline.heading(int(level[1]) if level else 1, item.text)
            elif style.startswith("List"):
                outline.line("- " + item.text)
            else:
                outline.block(item.text)
    if outline.empty:
        raise DataError("has no text", path)
    about = word.core_properties
    known = facts(created=about.created, modified=about.modified, language=about.language, author=about.author)
    return outline.document(id, about.title or outline.first_heading or path.stem, known)
