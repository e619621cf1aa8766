"""Dates, languages and lines: what is known about a document besides its text."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import pytest

from rag.about import guess, metadata
from rag.chunks import Chunking, cut
from rag.documents import Document, Found
from rag.readers import format_of, parse
from rag.readers.facts import date, facts


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("2024-05-01", "2024-05-01"),
        ("2024-05-01T11:30:00+02:00", "2024-05-01T09:30:00Z"),
        ("Wed, 01 May 2024 11:30:00 +0200", "2024-05-01T09:30:00Z"),
        ("D:20240501113000+02'00'", "2024-05-01T09:30:00Z"),
        ("D:2024", "2024-01-01T00:00:00Z"),
        (datetime(2024, 5, 1, 9, 30), "2024-05-01T09:30:00Z"),
        ("yesterday", ""),
        ("D:20241399", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_dates_of_all_formats_take_one_form(given: object, expected: str) -> None:
    assert date(given) == expected


def test_a_declared_language_loses_its_region_and_nonsense_is_left_out() -> None:
    assert facts(language="de-CH")["language"] == "de"
    assert facts(language="English (US)") == {}


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The pump must be switched off before the valve is opened by hand.", "en"),
        ("Die Pumpe muss ausgeschaltet sein, bevor das Ventil von Hand geöffnet wird.", "de"),
        ("La bomba debe estar apagada antes de que se abra la válvula a mano.", "es"),
        ("在手动打开阀门之前，必须关闭水泵并检查压力表的读数是否正常。", "zh"),
        ("x = 1", ""),
        ("4.5 | 7 | 12\n3.3 | 8 | 14", ""),
    ],
)
def test_a_language_is_guessed_when_there_is_enough_to_go_by(text: str, language: str) -> None:
    assert guess(text) == language


def test_what_a_document_says_itself_stands(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    path.write_text(
        '<html lang="fr-CA"><head><meta name="author" content="Ann"><meta property="article:modified_time"'
        ' content="2024-05-01"></head><body><p>The pump must be switched off.</p></body></html>'
    )
    (document,) = parse("html", path, "a.html")
    assert metadata(document, Found(path, "a.html")) == {"language": "fr", "author": "Ann", "modified": "2024-05-01"}


def test_a_file_is_dated_and_a_row_of_a_corpus_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("The pump must be switched off before the valve is opened.")
    os.utime(path, (0, 86_400))
    document = Document("a.txt", "T", path.read_text())
    assert metadata(document, Found(path, "a.txt")) == {"language": "en", "modified": "1970-01-02T00:00:00Z"}
    row = Document("row", "T", "", (), {"year": 1999})
    assert metadata(row, Found(path, "a.txt")) == {"year": 1999}


def test_front_matter_tells_date_and_language(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text("---\ntitle: Pumps\ndate: 2024-05-01\nlang: de\n---\n\n# Pumpen\n\nText.\n")
    (document,) = parse("markdown", path, "a.md")
    assert document.metadata == {"created": "2024-05-01", "language": "de"}


LONG = "\n".join(f"line {i} tells of pump {i} and of its seals" for i in range(200))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", f"Pumps\n=====\n\n\n{LONG}\n\nValves\n------\n{LONG.replace('pump', 'valve')}\n"),
        ("a.rst", f"\n\n=====\nPumps\n=====\n\n{LONG}\n"),
        ("a.md", f"\n# Pumps\n\n{LONG}\n\n\nValves\n---\n\n```\n{LONG.replace('pump', 'valve')}\n```\n"),
        ("a.py", "\n\n" + "\n".join(f"def pump_{i}():\n    return {i}\n" for i in range(200))),
    ],
)
def test_each_chunk_knows_the_line_of_the_file_where_it_begins(
    tmp_path: Path, words: object, name: str, text: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    (document,) = parse(format_of(path), path, name)
    chunks = cut(document, words, Chunking(254))  # type: ignore[arg-type]
    lines = text.split("\n")
    assert len(chunks) > 5
    for chunk in chunks:
        assert chunk.line is not None
        first = chunk.text.split("\n")[0]
        assert lines[chunk.line - 1].lstrip("# ").endswith(first.strip()) or first in lines[chunk.line - 1]


def test_formats_without_lines_have_none(tmp_path: Path, words: object) -> None:
    path = tmp_path / "a.html"
    path.write_text("<p>one</p>\n<p>two</p>")
    (document,) = parse("html", path, "a.html")
    assert [chunk.line for chunk in cut(document, words, Chunking(254))] == [None]  # type: ignore[arg-type]
