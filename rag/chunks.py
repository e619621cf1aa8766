"""Documents to chunks: by structure first, by the embedding model's tokens second, losing no character.

A chunk never runs over what the model reads (MiniLM cuts silently at 256 tokens).
What is embedded is the chunk under its title and heading path, so that "Installing
it" is found for what is installed; what is shown is the chunk alone.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

from rag.documents import Document, Section

Spans = Callable[[Sequence[str]], list[list[tuple[int, int]]]]
"""Character spans of the tokens of each text, by the embedding model's tokenizer."""


LONGEST_CHUNK = 400
"""Tokens. Some models read thousands; a vector of so much text is near to everything and found by nothing."""


@dataclass(frozen=True, slots=True)
class Chunking:
    """How documents are cut. Part of an index's identity: another setting is another index."""

    max_tokens: int
    """What the embedding model reads, context line included."""
    target_tokens: int = 200
    small_tokens: int = 60
    """A piece below this joins its neighbour where both fit."""
    context_tokens: int = 40
    """Most tokens of the context line (title and headings)."""

    def to_json(self) -> dict[str, int]:
        return asdict(self)


def chunking_of(reads: int, chunk_tokens: int | None) -> Chunking:
    """How documents are cut for a model that reads `reads` tokens, where a use case declares `chunk_tokens`."""
    if chunk_tokens is None:
        return Chunking(max_tokens=min(reads, LONGEST_CHUNK))
    longest = min(reads, chunk_tokens)
    return Chunking(max_tokens=longest, target_tokens=longest, small_tokens=min(60, longest // 3))


@dataclass(frozen=True, slots=True)
class Chunk:
    document_id: str
    number: int
    """0-based within the document."""
    title: str
    headings: tuple[str, ...]
    page: int | None
    line: int | None
    """1-based line of the file where it begins; None where the format has no lines."""
    start: int
    end: int
    """Characters of the document's text; `text` is exactly that slice."""
    text: str
    context: str
    """The line of title and headings that goes before the text when it is embedded; may be empty."""
    tokens: int


@dataclass(slots=True)
class _Piece:
    start: int
    end: int
    headings: tuple[str, ...]
    page: int | None


def cut(document: Document, spans: Spans, chunking: Chunking) -> list[Chunk]:
    """Chunks of `document` in text order; together every character that is not blank, none twice.

    A document that the model can read whole is one chunk.
    """
    text = document.text
    tokens = _Tokens(spans([text])[0])
    whole = _context(document.title, _shared(document.sections), text, spans, chunking)
    room = chunking.max_tokens - _count(whole, spans)
    if tokens.count(0, len(text)) <= room:
        headings = _shared(document.sections)
        page = next((s.page for s in document.sections), None)
        pieces = [_Piece(0, len(text), headings, page)]
    else:
        body = max(8, min(chunking.target_tokens, chunking.max_tokens - chunking.context_tokens - 2))
        pieces = _merged(list(_pieces(document, tokens, body)), tokens, body, chunking.small_tokens)
    chunks: list[Chunk] = []
    lines = _Lines(document)
    for piece in pieces:
        start, end = _stripped(text, piece.start, piece.end)
        if start == end:
            continue
        part = text[start:end]
        context = _context(document.title, piece.headings, part, spans, chunking)
        chunks.append(
            Chunk(
                document.id,
                len(chunks),
                document.title,
                piece.headings,
                piece.page,
                lines.at(start),
                start,
                end,
                part,
                context,
                tokens.count(start, end),
            )
        )
    return chunks


class _Lines:
    """Lines of the file by places in the document's text, asked for in rising order."""

    def __init__(self, document: Document) -> None:
        self._text = document.text
        self._anchors = document.lines
        self._starts = [start for start, _ in document.lines]
        self._last = (0, 0)

    def at(self, place: int) -> int | None:
        index = bisect_right(self._starts, place) - 1
        if index < 0:
            return None
        # On from the place before where no anchor lies between: a file of one anchor is gone through once.
        start, line = max(self._anchors[index], self._last)
        self._last = (place, line + self._text.count("\n", start, place))
        return self._last[1]


_LONG_TOKEN, _LONG_GAP = 24, 64
"""Characters. WordPiece takes any word over 100 characters for one unknown token: a megabyte of base64 would be one."""


class _Tokens:
    """Token counts of any slice of one text, from one pass of the tokenizer. What is long counts by its length."""

    def __init__(self, spans: Sequence[tuple[int, int]]) -> None:
        self._starts: list[int] = []
        at = 0
        for start, end in spans:
            if start - at > _LONG_GAP:
                self._starts.extend(range(at + _LONG_GAP, start, _LONG_GAP))
            if end - start > _LONG_TOKEN:
                self._starts.extend(range(start, end, _LONG_TOKEN // 3))
            else:
                self._starts.append(start)
            at = end

    def count(self, start: int, end: int) -> int:
        return bisect_left(self._starts, end) - bisect_left(self._starts, start)

    def boundary(self, start: int, tokens: int) -> int:
        """Where the token begins that is `tokens` after the one at `start`."""
        index = bisect_left(self._starts, start) + tokens
        return self._starts[index]


def _pieces(document: Document, tokens: _Tokens, budget: int) -> Iterator[_Piece]:
    text = document.text
    sections = document.sections or (Section(0, len(text)),)
    for section in sections:
        for start, end in _split(text, section.start, section.end, tokens, budget):
            yield _Piece(start, end, section.headings, section.page)


_LEVELS = (
    re.compile(r"\n[^\S\n]*\n\s*"),
    re.compile(r"(?<=\w\w[.!?])[\"')\]]*\s+(?![a-z])|(?<=[。！？])"),
    re.compile(r"\n"),
    re.compile(r"(?<=[,;:])\s+|(?<=[，；、])"),
    re.compile(r"\s+"),
)
"""Where to cut, best place first: paragraphs, sentences, lines, clauses, words.

Sentences before lines, since text from PDFs and mail is wrapped at any word; where lines mean something (lists,
tables, code), they seldom hold several sentences.
"""


def _split(text: str, start: int, end: int, tokens: _Tokens, budget: int, level: int = 0) -> list[tuple[int, int]]:
    """Adjacent spans over `start`..`end`, each of at most `budget` tokens, cut at the best places there are."""
    total = tokens.count(start, end)
    if total <= budget:
        return [(start, end)]
    if level == len(_LEVELS):
        # One "word" longer than the budget: base64, a URL, a language without blanks.
        cuts = [start]
        while tokens.count(cuts[-1], end) > budget:
            cuts.append(tokens.boundary(cuts[-1], budget))
        return list(pairwise([*cuts, end]))
    atoms: list[tuple[int, int]] = []
    at = start
    for match in _LEVELS[level].finditer(text, start, end):
        if match.end() > at and match.end() < end:
            atoms.extend(_split(text, at, match.end(), tokens, budget, level + 1))
            at = match.end()
    atoms.extend(_split(text, at, end, tokens, budget, level + 1))
    # Parts of about equal size rather than full ones and a crumb at the end.
    fair = total / -(-total // budget)
    packed: list[tuple[int, int]] = []
    for atom in atoms:
        if packed:
            first, _ = packed[-1]
            joined = tokens.count(first, atom[1])
            before = tokens.count(first, packed[-1][1])
            if joined <= budget and (joined <= fair or joined - fair < fair - before):
                packed[-1] = (first, atom[1])
                continue
        packed.append(atom)
    return packed


def _merged(pieces: list[_Piece], tokens: _Tokens, budget: int, small: int) -> list[_Piece]:
    """`pieces` with small ones joined to a neighbour: a heading alone, or a one-line section, finds nothing.

    To the one after it first, since a heading belongs to what it heads; else to the one before.
    """

    def little(piece: _Piece) -> bool:
        return tokens.count(piece.start, piece.end) < small

    for forward in (True, False):
        merged: list[_Piece] = []
        for piece in pieces:
            last = merged[-1] if merged else None
            if last and little(last if forward else piece) and tokens.count(last.start, piece.end) <= budget:
                merged[-1] = _Piece(last.start, piece.end, _common(last.headings, piece.headings), last.page)
            else:
                merged.append(piece)
        pieces = merged
    return pieces


def _common(a: tuple[str, ...], b: tuple[str, ...]) -> tuple[str, ...]:
    shared = 0
    while shared < min(len(a), len(b)) and a[shared] == b[shared]:
        shared += 1
    return a[:shared]


def _shared(sections: Sequence[Section]) -> tuple[str, ...]:
    if not sections:
        return ()
    shared = sections[0].headings
    for section in sections[1:]:
        shared = _common(shared, section.headings)
    return shared


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    part = text[start:end]
    lead = len(part) - len(part.lstrip())
    return start + lead, start + max(lead, len(part.rstrip()))


def _context(title: str, headings: tuple[str, ...], text: str, spans: Spans, chunking: Chunking) -> str:
    """Title and heading path as one line, without what the text begins with anyway, within its token limit."""
    names = [name for name in dict.fromkeys((title, *headings)) if name]
    if names and text.lstrip().startswith(names[-1]):
        names.pop()
    line = " > ".join(names)
    if not line:
        return ""
    found = spans([line])[0]
    limit = min(chunking.context_tokens, chunking.max_tokens // 4)
    if len(found) <= limit:
        return line
    # The innermost heading tells chunks of one document apart, and the title's beginning names it.
    inner = names[-1] if len(names) > 1 and _count(names[-1], spans) <= limit // 2 else ""
    kept = limit - _count(f" > {inner}", spans) if inner else limit
    return line[: found[kept - 1][1]] + (f" > {inner}" if inner else "")


def _count(text: str, spans: Spans) -> int:
    return len(spans([text])[0]) if text else 0
