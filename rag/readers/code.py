"""Source code and configuration: verbatim, in sections by its definitions."""

from __future__ import annotations

import re
from pathlib import Path

from rag.documents import Document, Scalar, Section
from rag.readers.encoding import read_text

_DEFINITION = re.compile(
    r"^(?P<indent>[ \t]{0,8})"
    r"(?:(?:export|default|public|private|protected|static|final|abstract|async|pub(?:\([a-z]+\))?|unsafe|inline)\s+)*"
    r"(?:def|class|function|func|fn|struct|enum|interface|trait|impl|module|namespace|type|sub|CREATE\s+\w+)"
    r"\s+(?P<name>[\w.:<>~]+)",
    re.MULTILINE,
)
_LEAD_IN = re.compile(r"[ \t]*(#|//|/\*|\*|@|--|\"\"\")")


def read(path: Path, id: str) -> Document:
    """The file as it is; each section is named by the definition it belongs to, comments and decorators above it included."""
    text, encoding = read_text(path)
    metadata: dict[str, Scalar] = {"language": path.suffix.lstrip(".").lower()}
    if encoding != "utf-8":
        metadata["encoding"] = encoding
    sections = []
    start, open_at = 0, list[tuple[int, str]]()
    headings: tuple[str, ...] = ()
    for match in _DEFINITION.finditer(text):
        begin = _with_lead_in(text, match.start())
        if begin > start:
            sections.append(Section(start, begin, headings))
            start = begin
        indent = len(match["indent"].expandtabs(4))
        open_at = [(depth, name) for depth, name in open_at if depth < indent] + [(indent, match["name"].rstrip(":"))]
        headings = tuple(name for _, name in open_at)
    if len(text) > start:
        sections.append(Section(start, len(text), headings))
    return Document(id, path.name, text, tuple(sections), metadata, ((0, 1),))


def _with_lead_in(text: str, start: int) -> int:
    """Where the comments and decorators right above the definition at `start` begin."""
    while start > 0:
        above = text.rfind("\n", 0, start - 1) + 1
        if not _LEAD_IN.match(text[above:start]):
            break
        start = above
    return start
