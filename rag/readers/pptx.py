"""PowerPoint: slide by slide, its title as the heading and its number as the page, with tables and speaker's notes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.errors import DataError
from rag.documents import Document
from rag.readers.archive import refuse_zip_bomb
from rag.readers.facts import facts
from rag.readers.outline import Outline

MAX_SLIDES = 5_000
_MAX_GROUPS = 20
"""Shapes in groups in groups: no author nests deeper."""


def read(path: Path, id: str) -> Document:
    """The slides' text; title from the properties, the first slide's title, or the file's name.

    Raises:
        DataError: not a presentation, a zip bomb, too long, or without text.
    """
    import pptx
    from pptx.exc import PythonPptxError

    refuse_zip_bomb(path)
    try:
        deck = pptx.Presentation(str(path))
    except (PythonPptxError, KeyError, ValueError, SyntaxError, AttributeError) as exc:
        raise DataError("is not a PowerPoint presentation (.pptx) that can be read", path) from exc
    slides = list(deck.slides)
    if len(slides) > MAX_SLIDES:
        raise DataError(f"has {len(slides)} slides, over the limit of {MAX_SLIDES}", path)
    outline = Outline()
    for number, slide in enumerate(slides, start=1):
        outline.page(number)
        _slide(outline, slide)
    if outline.empty:
        raise DataError("has no text", path)
    about = deck.core_properties
    known = facts(created=about.created, modified=about.modified, language=about.language, author=about.author)
    title = "" if about.title in (None, "PowerPoint Presentation") else about.title
    return outline.document(id, title or outline.first_heading or path.stem, {"pages": len(slides), **known})


def _slide(outline: Outline, slide: Any) -> None:
    title = slide.shapes.title
    if title is not None and title.text_frame.text.strip():
        outline.heading(1, title.text_frame.text)
    for shape in _shapes(slide.shapes, 0):
        if title is not None and shape.shape_id == title.shape_id:
            continue
        if shape.has_text_frame:
            outline.block("\n".join(p.text.replace("\v", "\n").strip() for p in shape.text_frame.paragraphs))
        elif shape.has_table:
            for row in shape.table.rows:
                outline.line(" | ".join(filter(None, (" ".join(cell.text.split()) for cell in row.cells))))
    if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
        notes = slide.notes_slide.notes_text_frame.text.strip()
        if notes:
            outline.block(f"Notes: {notes}")


def _shapes(shapes: Any, depth: int) -> Iterator[Any]:
    from pptx.shapes.group import GroupShape

    for shape in shapes:
        if isinstance(shape, GroupShape):
            if depth < _MAX_GROUPS:
                yield from _shapes(shape.shapes, depth + 1)
        else:
            yield shape
