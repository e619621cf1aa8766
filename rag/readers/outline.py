"""Text put together with its outline: what every reader of a structured format produces."""

from __future__ import annotations

import re

from rag.documents import Document, Scalar, Section


class Outline:
    """Collects headings and blocks of text in reading order, then gives the `Document`.

    Headings stay in the text, where a reader would see them, and name the sections after them.
    """

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._length = 0
        self._path: list[tuple[int, str]] = []
        self._page: int | None = None
        self._sections: list[Section] = []
        self._section_start = 0
        self._lines: list[tuple[int, int]] = []

    def heading(self, level: int, text: str, line: int | None = None) -> None:
        """A heading of `level` (1 is outermost) on `line`; it ends the sections of that level and deeper."""
        text = " ".join(text.split())
        if text:
            self.enter(level, text)
            self.block(text, line)

    def enter(self, level: int, text: str) -> None:
        """What follows stands under a heading that is in the text already, or nowhere in it."""
        text = " ".join(text.split())
        self._cut()
        self._path = [(above, name) for above, name in self._path if above < level] + [(level, text)]

    def page(self, number: int) -> None:
        """What follows stands on page `number`."""
        self._cut()
        self._page = number

    def block(self, text: str, line: int | None = None) -> None:
        """A paragraph, list item, table row or listing; blank ones are left out.

        Args:
            line: of the file, where `text` begins, when it is the file's lines one after the other.
        """
        begun = text.lstrip("\r\n")
        if not begun.strip():
            return
        if self._parts:
            self._add("\n\n")
        if line is not None:
            self._lines.append((self._length, line + text[: len(text) - len(begun)].count("\n")))
        self._add(begun.rstrip())

    def line(self, text: str) -> None:
        """Like `block`, but only a line below the one before: list items and table rows belong together."""
        text = text.rstrip()
        if not text.strip():
            return
        if self._parts:
            self._add("\n")
        self._add(text)

    @property
    def first_heading(self) -> str:
        return next((section.headings[0] for section in self._sections if section.headings), "") or (
            self._path[0][1] if self._path else ""
        )

    @property
    def length(self) -> int:
        """Characters so far."""
        return self._length

    @property
    def empty(self) -> bool:
        return not self._parts

    def document(self, id: str, title: str, metadata: dict[str, Scalar] | None = None) -> Document:
        """The whole as a document. Its title is not repeated in the heading paths."""
        self._cut()
        title = " ".join(title.split()) or self.first_heading
        sections = tuple(
            Section(s.start, s.end, s.headings[1:] if s.headings[:1] == (title,) else s.headings, s.page)
            for s in self._sections
        )
        return Document(id, title, "".join(self._parts), sections, dict(metadata or {}), tuple(self._lines))

    def _add(self, text: str) -> None:
        self._parts.append(text)
        self._length += len(text)

    def _cut(self) -> None:
        if self._length > self._section_start:
            headings = tuple(name for _, name in self._path)
            self._sections.append(Section(self._section_start, self._length, headings, self._page))
            self._section_start = self._length


_BLANKS = re.compile(r"[^\S\n]+")


def squeezed(text: str) -> str:
    """`text` with runs of blanks as one blank, line by line."""
    return "\n".join(_BLANKS.sub(" ", line).strip() for line in text.split("\n")).strip()
