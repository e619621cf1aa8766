from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from core.errors import DataError
from rag.documents import Document
from rag.readers import archive, format_of, parse
from rag.readers import rows as corpus


def read(path: Path, content: str | bytes) -> Document:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    (document,) = parse(format_of(path), path, path.name)
    return document


def outline(document: Document) -> list[tuple[tuple[str, ...], str]]:
    return [(s.headings, document.text[s.start : s.end].strip()) for s in document.sections]


def test_markdown_headings_name_the_sections(tmp_path: Path) -> None:
    document = read(tmp_path / "a.md", "# Pump\n\nIntro.\n\n## Start\n\nPress.\n\nStop\n----\n\nPull.\n")
    assert document.title == "Pump"
    assert outline(document) == [
        ((), "Pump\n\nIntro."),
        (("Start",), "Start\n\nPress."),
        (("Stop",), "Stop\n\nPull."),
    ]


def test_markdown_code_is_no_heading(tmp_path: Path) -> None:
    document = read(tmp_path / "a.md", "# T\n\n```sh\n# a comment\n```\n\nafter\n")
    assert [s.headings for s in document.sections] == [()]
    assert "# a comment" in document.text


def test_markdown_title_is_the_front_matters(tmp_path: Path) -> None:
    assert read(tmp_path / "a.md", "---\ntitle: 'My page'\n---\n\ntext\n").title == "My page"


def test_markdown_table_rules_are_no_headings(tmp_path: Path) -> None:
    document = read(tmp_path / "a.md", "| a | b |\n|---|---|\n| 1 | 2 |\n")
    assert [s.headings for s in document.sections] == [()]


def test_html_keeps_what_a_reader_sees(tmp_path: Path) -> None:
    page = (
        "<html><head><title>Guide</title><style>p{}</style></head><body><h1>Guide</h1><p>One <b>bold</b>\nword.</p>"
        "<h2>Next</h2><ul><li>first</li><li>second</li></ul><script>alert(1)</script><p hidden>secret</p>"
        "<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table><pre>x = 1\n  y = 2</pre></body>"
    )
    document = read(tmp_path / "a.html", page)
    assert document.title == "Guide"
    assert outline(document) == [
        ((), "Guide\n\nOne bold word."),
        (("Next",), "Next\nfirst\nsecond\na | b\n1 | 2\n\nx = 1\n  y = 2"),
    ]


def test_html_nested_deeper_than_pythons_recursion_is_read(tmp_path: Path) -> None:
    assert read(tmp_path / "a.html", "<div>" * 3000 + "deep" + "</div>" * 3000).text == "deep"


def test_html_inside_an_open_head_or_a_form_is_not_lost(tmp_path: Path) -> None:
    page = "<head><title>T</title><form><p>kept</p><select><option>one</option></select></form>"
    assert read(tmp_path / "a.html", page).text == "kept"


def test_html_in_the_charset_it_declares(tmp_path: Path) -> None:
    page = "<meta charset='iso-8859-2'><p>Zażółć gęślą jaźń</p>".encode("iso-8859-2")
    assert read(tmp_path / "a.html", page).text == "Zażółć gęślą jaźń"


def test_restructured_text_headings_rank_by_their_first_use(tmp_path: Path) -> None:
    document = read(
        tmp_path / "a.rst", "=====\nTitle\n=====\n\nIntro.\n\nPart\n====\n\nText.\n\nDetail\n------\n\nMore.\n"
    )
    assert document.title == "Title"
    assert [s.headings for s in document.sections] == [(), ("Part",), ("Part", "Detail")]


def test_plain_text_is_kept_to_the_letter(tmp_path: Path) -> None:
    text = "First line.\n  indented\n\nSecond paragraph."
    assert read(tmp_path / "a.txt", text).text == text


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-8-sig"])
def test_text_in_other_encodings_is_read_right(tmp_path: Path, encoding: str) -> None:
    text = "Größe und Übermaß der Straße: vierzig Königsberger Klöße für fünf Euro. " * 4
    assert read(tmp_path / "a.txt", text.encode(encoding)).text == text.rstrip()


def test_binary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is binary"):
        read(tmp_path / "a.txt", b"abc\x00\x01def")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty"):
        read(tmp_path / "a.txt", b"  \n")


def test_code_is_cut_at_its_definitions(tmp_path: Path) -> None:
    source = "import os\n\n\n# About A.\nclass A:\n    def run(self):\n        pass\n\n\ndef b():\n    pass\n"
    document = read(tmp_path / "a.py", source)
    assert document.text == source
    assert [s.headings for s in document.sections] == [(), ("A",), ("A", "run"), ("b",)]
    assert source[document.sections[1].start :].startswith("# About A.")


def test_a_table_is_a_line_a_row(tmp_path: Path) -> None:
    document = read(tmp_path / "a.csv", "name;height\nRigi;1798\nPilatus;2128\n")
    assert document.text == "name: Rigi; height: 1798\nname: Pilatus; height: 2128"


def test_a_table_with_id_and_text_is_a_corpus(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,title,text\n1,T,hello\n2,U,there\n")
    assert [(d.id, d.title, d.text) for d in parse("table", path, "a.csv")] == [
        ("1", "T", "hello"),
        ("2", "U", "there"),
    ]


def test_json_values_are_named_by_their_path(tmp_path: Path) -> None:
    document = read(tmp_path / "a.json", json.dumps({"pump": {"bar": 4, "parts": ["seal", "rotor"]}}))
    assert document.text == "pump.bar: 4\npump.parts: seal, rotor"


def test_a_corpus_row_keeps_its_id_title_and_metadata(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(
        '{"_id": 7, "title": "T", "text": "hello", "year": 1999, "tags": ["a"], "none": null}\n\n{"text": "x"}\n'
    )
    assert list(corpus.read(path, "c.jsonl")) == [
        Document("7", "T", "hello", (), {"year": 1999, "tags": '["a"]'}),
        Document("c.jsonl#3", "", "x"),
    ]


def test_a_doubled_id_is_named_with_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text('{"id":"a","text":"x"}\n{"id":"b","text":"x"}\n{"id":"a","text":"y"}\n')
    with pytest.raises(DataError, match=r"c.jsonl:3: the id 'a' is on line 1 already"):
        corpus.check(path, "c.jsonl")


def test_a_broken_row_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text('{"id":"a","text":"x"}\n{"id":"b",\n')
    with pytest.raises(DataError, match=r"c.jsonl:2: is not valid JSON"):
        corpus.check(path, "c.jsonl")


def test_half_a_surrogate_pair_becomes_a_question_mark(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text('{"id":"a","title":"\\ud83d","text":"x \\ud83d y"}\n')
    (document,) = corpus.read(path, "c.jsonl")
    assert (document.title, document.text) == ("?", "x ? y")


def test_an_integer_too_large_for_the_store_is_kept_as_text(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text('{"id":"a","text":"x","n":' + "9" * 30 + "}\n")
    (document,) = corpus.read(path, "c.jsonl")
    assert document.metadata == {"n": "9" * 30}


def pdf(path: Path, *pages: str) -> Path:
    """A minimal PDF with a line of text on each page; a page of "" has no text layer."""
    objects = ["<</Type/Catalog/Pages 2 0 R>>", ""]
    kids = []
    for text in pages:
        number = len(objects) + 1
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET" if text else ""
        kids.append(f"{number} 0 R")
        font = "<</Font<</F1<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>"
        objects.append(f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents {number + 1} 0 R/Resources {font}>>")
        objects.append(f"<</Length {len(stream)}>>stream\n{stream}\nendstream")
    objects[1] = f"<</Type/Pages/Kids[{' '.join(kids)}]/Count {len(kids)}>>"
    body, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(body))
        body += f"{number} 0 obj{content}endobj\n".encode()
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    end = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer<</Size {len(objects) + 1}/Root 1 0 R>>\n"
    path.write_bytes(body + end.encode() + f"startxref\n{len(body)}\n%%EOF".encode())
    return path


def test_pdf_text_knows_its_page(tmp_path: Path) -> None:
    (document,) = parse("pdf", pdf(tmp_path / "a.pdf", "First page", "Second page"), "a.pdf")
    assert [(s.page, document.text[s.start : s.end].strip()) for s in document.sections] == [
        (1, "First page"),
        (2, "Second page"),
    ]
    assert document.metadata == {"pages": 2}


def test_a_pdf_without_a_text_layer_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no text layer on its 2 pages \(a scan\? run OCR"):
        list(parse("pdf", pdf(tmp_path / "a.pdf", "", ""), "a.pdf"))


@pytest.mark.parametrize("content", [b"not a pdf", b"%PDF-1.4\n" + bytes(range(256)) * 20])
def test_a_garbled_pdf_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"is not a PDF|is a damaged PDF|no text layer"):
        list(parse("pdf", path, "a.pdf"))


def test_word_headings_lists_and_tables_are_read_in_order(tmp_path: Path) -> None:
    import docx

    word = docx.Document()
    word.add_heading("Pump", 0)
    word.add_paragraph("Intro.")
    word.add_heading("Start", 1)
    word.add_paragraph("Press.", style="List Bullet")
    table = word.add_table(rows=1, cols=2)
    table.rows[0].cells[0].text, table.rows[0].cells[1].text = "bar", "4"
    word.save(str(tmp_path / "a.docx"))
    (document,) = parse("docx", tmp_path / "a.docx", "a.docx")
    assert document.title == "Pump"
    assert document.text == "Pump\n\nIntro.\n\nStart\n- Press.\nbar | 4"


def test_a_zip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_UNPACKED_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "a.docx", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("word/document.xml", "0" * 100_000)
    with pytest.raises(DataError, match="over the limit"):
        list(parse("docx", tmp_path / "a.docx", "a.docx"))
