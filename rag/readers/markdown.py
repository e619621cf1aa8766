"""Markdown: sections by # and underlined headings; fenced code is never mistaken for one."""

from __future__ import annotations

import re
from pathlib import Path

from rag.documents import Document, Scalar
from rag.readers.encoding import read_text
from rag.readers.outline import Outline

_HASH = re.compile(r" {0,3}(#{1,6})\s+(.*?)(?:\s+#+)?\s*$")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)\s*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n(?:---|\.\.\.)\n", re.DOTALL)
_FRONT_TITLE = re.compile(r"^title:\s*(['\"]?)(.+?)\1\s*$", re.MULTILINE)


def read(path: Path, id: str) -> Document:
    """The file's source, verbatim. The title is the front matter's, the first heading, or the file's name."""
    text, encoding = read_text(path)
    metadata: dict[str, Scalar] = {} if encoding == "utf-8" else {"encoding": encoding}
    title = ""
    front = _FRONT_MATTER.match(text)
    if front:
        named = _FRONT_TITLE.search(front[1])
        title = named[2] if named else ""
    outline = Outline()
    held: list[str] = []
    fence = ""
    for line in text.split("\n"):
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
            outline.block("\n".join(held))
            held = []
            outline.heading(len(heading[1]), heading[2])
        elif under and held and held[-1].strip() and (len(held) == 1 or not held[-2].strip()) and not _listy(held[-1]):
            name = held.pop()
            outline.block("\n".join(held))
            held = []
            outline.heading(1 if under[1][0] == "=" else 2, name)
        else:
            held.append(line)
    outline.block("\n".join(held))
    return outline.document(id, title or outline.first_heading or path.stem, metadata)


def _listy(line: str) -> bool:
    """Whether a rule under `line` is no underline: list items, quotes, tables and front matter's end."""
    return line.lstrip()[:1] in ("-", "*", "+", ">", "|") or bool(re.match(r"\s*\w+:\s", line))
