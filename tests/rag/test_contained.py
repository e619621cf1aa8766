from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import DataError
from rag.documents import Found
from rag.readers import read_file
from rag.readers.contained import Parser


def test_one_process_reads_file_after_file(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<title>A</title><p>one</p>")
    (tmp_path / "b.html").write_text("<title>B</title><h1>H</h1><p>two</p>")
    with Parser() as parser:
        first = parser.read("html", tmp_path / "a.html", "a")
        child = parser._child
        second = parser.read("html", tmp_path / "b.html", "b")
        assert parser._child is child
    assert [(d.id, d.title, d.text) for d in first + second] == [("a", "A", "one"), ("b", "B", "H\n\ntwo")]
    assert second[0].sections[-1].headings == ("H",)


def test_a_refused_file_is_an_error_and_the_next_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"junk")
    (tmp_path / "b.html").write_text("<p>two</p>")
    with Parser() as parser:
        with pytest.raises(DataError, match="is not a PDF") as caught:
            parser.read("pdf", tmp_path / "a.pdf", "a")
        assert caught.value.path == str(tmp_path / "a.pdf")
        assert parser.read("html", tmp_path / "b.html", "b")[0].text == "two"


def test_a_hanging_parser_is_stopped_and_the_next_file_is_read(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.html")  # opening it waits for a writer that never comes
    (tmp_path / "b.html").write_text("<p>two</p>")
    with Parser(time_limit_s=3) as parser:
        with pytest.raises(DataError, match="took over 3 s to read"):
            parser.read("html", tmp_path / "pipe.html", "a")
        parser._time_limit_s = 60
        assert parser.read("html", tmp_path / "b.html", "b")[0].text == "two"


def test_a_parser_that_dies_loses_only_its_file(tmp_path: Path) -> None:
    (tmp_path / "b.html").write_text("<p>two</p>")
    with Parser() as parser:
        parser.read("html", tmp_path / "b.html", "b")
        assert parser._child is not None
        parser._child.kill()
        parser._child.wait()
        assert parser.read("html", tmp_path / "b.html", "b")[0].text == "two"


def test_a_surrogate_in_a_parsed_text_does_not_break_the_answer(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"x": "\\ud800"}')
    with Parser() as parser:
        assert parser.read("json", tmp_path / "a.json", "a")[0].text == "x: ?"


def test_a_file_without_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<script>x</script>")
    with Parser() as parser, pytest.raises(DataError, match="has no visible text"):
        list(read_file(Found(tmp_path / "a.html", "a"), parser))
