"""Markdown: sections by # and underlined headings; fenced code is never mistaken for one."""

from __future__ import annotations

import re
from pathlib import Path

from rag.documents import Document, Scalar
from rag.readers.encoding import read_text
from rag.readers.facts import facts
from rag.readers.outline import Outline

_HASH = re.compile(r" {0,3}(#{1,6})\s+(.*?)(?:\s+#+)?\s*$")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)\s*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n(?:---|\.\.\.)\n", re.DOTALL)
_FRONT_FIELD = re.compile(
    r"^(title|date|lastmod|updated|lang|language|author):[ \t]*(['\"]?)(.+?)\2[ \t]*$", re.MULTILINE
)


def read(path: Path, id: str) -> Document:
    """The file's source, verbatim. The title is the front matter's, the first heading, or the file's name."""
    text, encoding = read_text(path)
    metadata: dict[str, Scalar] = {} if encoding == "utf-8" else {"encoding": encoding}
    title = ""
    front = _FRONT_MATTER.match(text)
    if front:
        named = {match[1]: match[3] for match in _FRONT_FIELD.finditer(front[1])}
        title = named.get("title", "")
        metadata |= facts(
            created=named.get("date"),
            modified=named.get("lastmod") or named.get("updated"),
            language=named.get("lang") or named.get("language"),
            author=named.get("author"),
        )
    outline = Outline()
    held: list[str] = []
    fence = ""
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not line[mark.end() :].strip():
                fence = ""
            held.append(line)
            continue
        if mark:
            fence = mark[1]
            held.append(line)
            continue
        heading = _HASH.match(line)
        under = _UNDERLINE.match(line)
        if heading:
            outline.block("\n".join(held), number - len(held))
            held = []
            outline.heading(len(heading[1]), heading[2], number)
        elif under and held and held[-1].strip() and (len(held) == 1 or not held[-2].strip()) and not _listy(held[-1]):
            name = held.pop()
            outline.block("\n".join(held), number - 1 - len(held))
            held = []
            outline.heading(1 if under[1][0] == "=" else 2, name, number - 1)
        else:
            held.append(line)
    outline.block("\n".join(held), len(lines) - len(held) + 1)
    return outline.document(id, title or outline.first_heading or path.stem, metadata)


def _listy(line: str) -> bool:
    """Whether a rule under `line` is no underline: list items, quotes, tables and front matter's end."""
    return line.lstrip()[:1] in ("-", "*", "+", ">", "|") or bool(re.match(r"\s*\w+:\s", line))
