"""Plain text and the light markups that underline their headings: txt, reStructuredText, AsciiDoc."""

from __future__ import annotations

import re
from pathlib import Path

from rag.documents import Document, Scalar
from rag.readers.encoding import read_text
from rag.readers.outline import Outline

_RULE = re.compile(r"([=\-~^*+#\"'`_:.])\1{2,}\s*$")
_ASCIIDOC = re.compile(r"(={1,5})\s+(\S.*?)(\s+=+)?\s*$")


def read(path: Path, id: str) -> Document:
    """The file's text, verbatim, in sections by its underlined headings. The title is its first heading or line."""
    text, encoding = read_text(path)
    return from_text(text, id, path, {} if encoding == "utf-8" else {"encoding": encoding})


def from_text(text: str, id: str, path: Path, metadata: dict[str, Scalar]) -> Document:
    outline = Outline()
    ranks: dict[str, int] = {}
    lines = text.split("\n")
    held: list[str] = []
    i = 0
    while i < len(lines):
        name, rank_of, used = _heading(lines, i)
        if used:
            outline.block("\n".join(held), i - len(held) + 1)
            held = []
            # Of an overlined heading the name is on the second line.
            outline.heading(ranks.setdefault(rank_of, len(ranks) + 1), name, i + (2 if used == 3 else 1))
            i += used
        else:
            held.append(lines[i])
            i += 1
    outline.block("\n".join(held), i - len(held) + 1)
    return outline.document(id, outline.first_heading or path.stem, metadata)


def _heading(lines: list[str], i: int) -> tuple[str, str, int]:
    """The heading that starts at line `i`: its text, what its rank goes by, lines used (0: there is none)."""
    line = lines[i].rstrip()
    below = lines[i + 1].rstrip() if i + 1 < len(lines) else ""
    if _RULE.match(line) and i + 2 < len(lines):
        # reStructuredText: a rule above and below.
        name, under = lines[i + 1].strip(), lines[i + 2].rstrip()
        if name and under == line and len(line) >= len(name) and not _RULE.match(name):
            return name, line[0] * 2, 3
    blank_above = i == 0 or not lines[i - 1].strip()
    underlined = line and not line[0].isspace() and blank_above and _RULE.match(below) and not _RULE.match(line)
    # Underlines match the heading's length, give or take what authors are careless about; a table's rule does not.
    if underlined and (abs(len(below) - len(line)) <= 2 or (len(below) >= len(line) and below[0] in "=-~")):
        return line, below[0], 2
    match = _ASCIIDOC.match(line)
    if match and blank_above:
        return match[2], f"={len(match[1])}", 1
    return "", "", 0
