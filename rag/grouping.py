"""Chunks found to passages shown: a short document whole, a text once."""

from __future__ import annotations

from dataclasses import dataclass, replace

from core.types import Source
from rag.diversity import Kept
from rag.fusion import Hits
from rag.passages import Passages, source


@dataclass
class Found:
    """A passage on its way to being shown."""

    source: Source
    """Its score is that of the order it stands in, not yet squashed."""
    row: int
    """The chunk it was found by."""


def grouped(passages: Passages, hits: Hits, count: int, near_duplicates: float) -> list[Found]:
    """Chunks to `count` passages: those of a short document become the document, at its best chunk's place.

    Of passages with the same text (one page under two names) the first stands for all; the others' document ids
    are in its metadata, `also_in`, one a line. So are those of near duplicates, in `similar_in`.
    """
    found: dict[str, Found] = {}
    order: list[Found] = []
    kept = Kept(near_duplicates)
    seen: set[int] = set()
    for row, score in zip(*hits, strict=True):
        number = passages.entry_of(row)
        entry = passages.entries[number]
        if passages.whole(number):
            if number in seen:
                continue
            seen.add(number)
            parts = passages.rows_of(entry)
        else:
            parts = [passages.row(row)]
        one = source(entry, parts, len(found) + 1, score)
        same = found.get(one.text)
        if same is not None:
            _note(same.source, "also_in", entry.id)
            continue
        if len(found) == count:
            # Equal texts have equal scores and follow each other: none of those kept has another twin.
            break
        like = kept.like(one.text)
        if like is not None:
            _note(order[like].source, "similar_in", entry.id)
            continue
        kept.add(one.text)
        found[one.text] = Found(one, row)
        order.append(found[one.text])
    return order


def rescored(found: Found, score: float) -> Found:
    return replace(found, source=replace(found.source, score=score))


def _note(kept: Source, key: str, document_id: str) -> None:
    """Add a document to a list in a passage's metadata, one id a line; its own id is none."""
    if document_id != kept.document_id:
        others = filter(None, str(kept.metadata.get(key, "")).split("\n"))
        kept.metadata[key] = "\n".join(dict.fromkeys([*others, document_id]))
