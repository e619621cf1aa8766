"""HTML: the text a reader of the page sees, with its headings; scripts, styles and hidden parts left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.errors import DataError
from rag.documents import Document, Scalar
from rag.readers.encoding import read_bytes
from rag.readers.facts import facts
from rag.readers.outline import Outline, squeezed

_UNSEEN = (
    *("script", "style", "template", "noscript", "nav", "svg", "iframe", "object"),
    *("title", "select", "textarea", "button"),
)
"""Not <head> or <form>: pages that leave one open have everything else inside it."""

_BLOCKS = {
    *("address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "details", "dialog", "div"),
    *("dl", "dt", "fieldset", "figcaption", "figure", "footer", "header", "hgroup", "html", "li", "main", "ol", "p"),
    *("pre", "section", "summary", "table", "tbody", "td", "tfoot", "th", "thead", "tr", "ul"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "hr"),
}
_LINES = {"li", "dt", "dd", "tr"}


def read(path: Path, id: str) -> Document:
    """The page's visible text. The title is <title>'s, else the first heading.

    Raises:
        DataError: no visible text.
    """
    soup = _soup(read_bytes(path), None)
    title = soup.title.get_text(" ") if soup.title else ""
    known = _facts(soup)
    outline = Outline()
    _visible(outline, soup)
    if outline.empty:
        raise DataError("has no visible text", path)
    return outline.document(id, title or path.stem, known)


def add(outline: Outline, data: bytes, encoding: str | None) -> bool:
    """Add a page's visible text to `outline`; whether it had any."""
    before = outline.length
    _visible(outline, _soup(data, encoding))
    return outline.length > before


def _soup(data: bytes, encoding: str | None) -> Any:
    from bs4 import BeautifulSoup

    return BeautifulSoup(data, "html.parser", from_encoding=encoding)


def _visible(outline: Outline, soup: Any) -> None:
    for element in soup(_UNSEEN):
        element.decompose()
    for element in soup.select("[hidden], [aria-hidden=true]"):
        element.decompose()
    _Walk(outline).element(soup)


_META = {
    "created": ("article:published_time", "datepublished", "dc.date", "dcterms.created", "date"),
    "modified": ("article:modified_time", "datemodified", "dcterms.modified", "last-modified"),
    "author": ("author", "article:author", "dc.creator"),
}


def _facts(soup: Any) -> dict[str, Scalar]:
    """What the page's <html lang> and <meta> say."""
    named: dict[str, str] = {}
    for meta in soup("meta"):
        for attribute in ("name", "property", "itemprop", "http-equiv"):
            key = str(meta.get(attribute) or "").lower()
            if key:
                named.setdefault(key, str(meta.get("content") or ""))
    found = {what: next((named[key] for key in keys if named.get(key)), "") for what, keys in _META.items()}
    root = soup.find("html")
    language = str(root.get("lang") or root.get("xml:lang") or "") if root is not None else ""
    return facts(language=language or named.get("content-language"), **found)


class _Walk:
    """Depth first over the page, gathering inline text until a block begins or ends."""

    def __init__(self, outline: Outline) -> None:
        self._outline = outline
        self._inline: list[str] = []
        self._line = False

    def element(self, root: Any) -> None:
        # An explicit stack: pages nest deeper than Python's recursion allows.
        stack: list[tuple[Any, bool]] = [(root, False)]
        while stack:
            node, leaving = stack.pop()
            name = getattr(node, "name", None)
            if leaving:
                self._flush()
                continue
            if name is None:
                if type(node).__name__ == "NavigableString":
                    self._inline.append(str(node))
                continue
            if name == "br":
                self._inline.append("\n")
                continue
            if name in ("pre", "tr", "h1", "h2", "h3", "h4", "h5", "h6"):
                self._flush()
                self._whole(node, name)
                continue
            if name in _BLOCKS:
                self._flush()
                self._line = name in _LINES
                stack.append((node, True))
            stack.extend((child, False) for child in reversed(node.contents))
        self._flush()

    def _whole(self, node: Any, name: str) -> None:
        if name == "pre":
            self._outline.block(node.get_text())
        elif name == "tr":
            if node.find("table") is not None or node.find("p") is not None:
                # A table for layout, not of data: its cells are blocks.
                for cell in node.find_all(("td", "th"), recursive=False):
                    self.element(cell)
                return
            cells = [" ".join(cell.get_text(" ").split()) for cell in node.find_all(("td", "th"))]
            self._outline.line(" | ".join(cell for cell in cells if cell))
        else:
            self._outline.heading(int(name[1]), node.get_text(" "))

    def _flush(self) -> None:
        text = squeezed(_joined(self._inline))
        self._inline = []
        if text:
            if self._line:
                self._outline.line(text)
            else:
                self._outline.block(text)
        self._line = False


def _joined(pieces: list[str]) -> str:
    """Inline text as a browser shows it: line ends of the source are blanks, those of <br> are line ends."""
    return "".join(piece if piece == "\n" else piece.replace("\n", " ") for piece in pieces)
