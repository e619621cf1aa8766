"""What a document is, and which files under the given paths hold one.

Finding files never leaves the folders the user named: a symlink that points
elsewhere is skipped and said so, so a shared folder cannot pull in /etc.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from glob import glob, has_magic
from pathlib import Path
from typing import NamedTuple

from core.errors import DataError

Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Section:
    """A run of a document's text under one heading path, on one page."""

    start: int
    end: int
    """Characters of the document's text, end excluded."""
    headings: tuple[str, ...] = ()
    """Outermost first; without the document's title."""
    page: int | None = None
    """1-based; None where the format has no pages."""


@dataclass(frozen=True, slots=True)
class Document:
    """One text with what is known about it."""

    id: str
    title: str
    text: str
    sections: tuple[Section, ...] = ()
    """In text order, together the whole text but for blank space; () means one section without headings."""
    metadata: dict[str, Scalar] = field(default_factory=dict)
    lines: tuple[tuple[int, int], ...] = ()
    """(character, line of the file) where lines of the file stand in the text one after the other; () without lines."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file to read."""

    path: Path
    id: str
    """Document id of the file: its path as seen from the folder the user named, that folder's name first."""


@dataclass(frozen=True, slots=True)
class Left:
    """A file that was not read, and why."""

    path: str
    reason: str


FORMATS: dict[str, str] = {
    **dict.fromkeys((".txt", ".text", ".log", ".adoc", ".asciidoc", ".org", ".tex", ".srt", ".vtt"), "plain"),
    ".rst": "plain",
    **dict.fromkeys((".md", ".markdown", ".mdx"), "markdown"),
    **dict.fromkeys((".html", ".htm", ".xhtml"), "html"),
    ".pdf": "pdf",
    ".docx": "docx",
    ".pptx": "pptx",
    **dict.fromkeys((".xlsx", ".xlsm"), "xlsx"),
    ".eml": "mail",
    **dict.fromkeys((".csv", ".tsv"), "table"),
    **dict.fromkeys((".jsonl", ".ndjson"), "rows"),
    ".json": "json",
    **dict.fromkeys(
        (
            *(".py", ".pyi", ".js", ".mjs", ".jsx", ".ts", ".tsx", ".java", ".kt", ".scala", ".go", ".rs", ".c", ".h"),
            *(".cc", ".cpp", ".cxx", ".hpp", ".cs", ".rb", ".php", ".swift", ".pl", ".pm", ".lua", ".r", ".jl", ".sh"),
            *(".bash", ".zsh", ".ps1", ".sql", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".conf", ".css", ".scss"),
            *(".proto", ".graphql", ".tf", ".dockerfile", ".cmake", ".gradle", ".hs", ".ml", ".ex", ".exs", ".erl"),
            *(".clj", ".dart", ".vue", ".svelte", ".xml"),
        ),
        "code",
    ),
}
"""Reader of each file name suffix. A file without a suffix is read as text when it is text."""


class Search(NamedTuple):
    files: list[Found]
    left: list[Left]
    """Not documents, or links out of the folder: nothing is wrong with leaving them."""
    failed: list[Left]
    """Folders that could not be listed."""


def find_files(paths: Sequence[Path]) -> Search:
    """Files to read under `paths` (files, folders or glob patterns), and those left out with the reason.

    Hidden files and folders are passed over silently; so is a file named twice. Sorted by id within each path.

    Raises:
        DataError: a path does not exist, or nothing under the paths is a document.
    """
    found: dict[Path, Found] = {}
    left: list[Left] = []
    failed: list[Left] = []
    for path in paths:
        fixed = None if path.exists() else fixed_part(path).resolve()
        for root in expanded(path):
            if fixed is not None and not _inside(root, fixed):
                left.append(Left(str(root), "a link out of the folder"))
                continue
            for item in _under(root, failed):
                if isinstance(item, Left):
                    left.append(item)
                else:
                    found.setdefault(item.path.resolve(), item)
    files = _distinct(list(found.values()))
    if not files:
        where = ", ".join(str(path) for path in paths) or "no path"
        out = [*failed, *left]
        more = f" ({len(out)} left out: {out[0].path}: {out[0].reason})" if out else ""
        raise DataError(f"{where}: holds no documents{more}; name a file or folder with {_known()}")
    return Search(files, left, failed)


def _known() -> str:
    return "html, pdf, md, rst, txt, docx, pptx, xlsx, eml, csv, tsv, json, jsonl or source code"


def expanded(path: Path) -> list[Path]:
    """The files and folders that `path`, or the glob pattern it is, stands for.

    Raises:
        DataError: none.
    """
    if path.exists():
        return [path]
    text = str(path)
    if has_magic(text):
        matches = sorted(Path(match) for match in glob(text, recursive=True))  # noqa: PTH207 - patterns may be absolute
        if not matches:
            raise DataError("no file matches this pattern", path)
        return matches
    raise DataError("no such file or folder", path)


def fixed_part(pattern: Path) -> Path:
    """The folder that a glob pattern starts from: what the user named, links in it included."""
    parts = pattern.parts
    return Path(*parts[: next((i for i, part in enumerate(parts) if has_magic(part)), len(parts))])


def _under(root: Path, failed: list[Left]) -> Iterator[Found | Left]:
    if root.is_file():
        # A file the user named is read whatever its name; the reader says if it cannot.
        yield Found(root, root.name)
        return
    if not root.is_dir():
        yield Left(str(root), "neither a file nor a folder")
        return
    real = root.resolve()
    prefix = real.name or "root"

    def unlistable(error: OSError) -> None:
        failed.append(Left(str(error.filename), f"cannot be listed ({error.strerror})"))

    for folder, folders, names in os.walk(real, onerror=unlistable):
        here = Path(folder)
        linked = [name for name in folders if (here / name).is_symlink()]
        for name in sorted(linked):
            if not _inside(here / name, real):
                yield Left(str(here / name), "a link out of the folder")
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in linked)
        for name in sorted(names):
            path = here / name
            if name.startswith("."):
                continue
            if path.is_symlink():
                # A link to a file of this folder would only index it twice.
                if not _inside(path, real):
                    yield Left(str(path), "a link out of the folder")
                continue
            if not path.is_file():
                yield Left(str(path), "not a regular file")
            elif path.suffix.lower() in FORMATS or (not path.suffix and _texty(path)):
                yield Found(path, f"{prefix}/{path.relative_to(real).as_posix()}")
            else:
                yield Left(str(path), f"not a document format ({path.suffix or 'no suffix, and not text'})")


def _inside(path: Path, root: Path) -> bool:
    return path.resolve().is_relative_to(root)


def _texty(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return b"\0" not in file.read(4096)
    except OSError:
        return True  # the reader will say why it cannot be read


def _distinct(files: list[Found]) -> list[Found]:
    """`files` with ids that differ: of two with one id, the later goes by its whole path."""
    seen: set[str] = set()
    distinct = []
    for file in files:
        if file.id in seen:
            file = replace(file, id=file.path.resolve().as_posix())
        seen.add(file.id)
        distinct.append(file)
    return distinct
