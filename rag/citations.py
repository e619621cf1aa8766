"""The numbers an answer cites its passages by: read from the text, and checked against the passages there were."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from core.types import Source

_CITED = re.compile(
    r"\[\s*(\d{1,3}(?:\s*[-\u2013]\s*\d{1,3})?(?:\s*[,;]\s*\d{1,3}(?:\s*[-\u2013]\s*\d{1,3})?)*)\s*\]|【(\d{1,3})】"
)
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_RANGE = re.compile(r"(\d+)\s*[-\u2013]\s*(\d+)")


class Citations(NamedTuple):
    """What an answer cites."""

    cited: tuple[int, ...]
    """Numbers of passages that were in the prompt, in the order they are first cited."""
    unknown: tuple[int, ...]
    """Numbers that no passage has: the answer made them up."""


def citations(text: str, sources: Sequence[Source]) -> Citations:
    """The citations in `text`: [1], [1, 2], [1][2], [1-3]. Brackets in code are none, nor is what a link stands on."""
    known = {source.number for source in sources}
    numbers: dict[int, None] = {}
    plain = _CODE.sub(" ", text)
    for match in _CITED.finditer(plain):
        if plain[match.end() : match.end() + 1] == "(":
            continue
        for part in re.split(r"[,;]", match[1] or match[2]):
            span = _RANGE.search(part)
            first, last = (int(span[1]), int(span[2])) if span else (int(part), int(part))
            if first <= last <= first + len(known) + 1:
                numbers.update(dict.fromkeys(range(first, last + 1)))
            else:
                numbers.update(dict.fromkeys((first, last)))
    return Citations(tuple(n for n in numbers if n in known), tuple(n for n in numbers if n not in known))


def place(source: Source) -> str:
    """Where a passage stands, for a person: file, page, headings, characters."""
    known = source.metadata
    parts = [str(known.get("file", source.document_id))]
    if source.document_id != parts[0]:
        parts.append(source.document_id)
    if "page" in known:
        parts.append(f"page {known['page']}")
    if "line" in known:
        parts.append(f"line {known['line']}")
    if "headings" in known:
        parts.append(str(known["headings"]))
    if "start" in known and "end" in known:
        parts.append(f"characters {known['start']}-{known['end']}")
    return ", ".join(parts)
