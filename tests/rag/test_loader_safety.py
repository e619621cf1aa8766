"""Documents come from strangers: what they refer to is not fetched, and what they hide does not expand."""

from __future__ import annotations

import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest

from core.errors import DataError
from rag.documents import Found, find_files
from rag.readers import format_of, parse, read_file
from rag.readers.contained import Parser


@pytest.fixture
def beacon() -> Iterator[tuple[str, list[object]]]:
    """A URL on this machine, and the connections made to it."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(0.05)
    met: list[object] = []
    done = threading.Event()

    def accept() -> None:
        while not done.is_set():
            try:
                connection, address = listening.accept()
            except TimeoutError:
                continue
            met.append(address)
            connection.close()

    thread = threading.Thread(target=accept)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/x", met
    done.set()
    thread.join()
    listening.close()


def rewritten(path: Path, name: str, change: Callable[[str], str]) -> None:
    """The archive at `path` with its part `name` changed."""
    with zipfile.ZipFile(path) as old:
        parts = {entry: old.read(entry) for entry in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for entry, data in parts.items():
            new.writestr(entry, change(data.decode()) if entry == name else data)


def relation(kind: str, url: str) -> Callable[[str], str]:
    base = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    line = f'<Relationship Id="rId99" Type="{base}/{kind}" Target="{url}" TargetMode="External"/>'
    return lambda xml: xml.replace("</Relationships>", f"{line}</Relationships>")


def html(path: Path, url: str) -> None:
    path.write_text(
        f'<html><head><base href="{url}"><link rel="stylesheet" href="{url}"><script src="{url}"></script>'
        f'<meta http-equiv="refresh" content="0;url={url}"></head><body><p>words</p><img src="{url}">'
        f'<iframe src="{url}"></iframe><object data="{url}"></object></body></html>'
    )


def markdown(path: Path, url: str) -> None:
    path.write_text(f"# words\n\n![x]({url}) [y]({url})\n\n{{{{< include {url} >}}}}\n")


def docx(path: Path, url: str) -> None:
    import docx as library

    word = library.Document()
    word.add_paragraph("words")
    word.save(str(path))
    rewritten(path, "word/_rels/document.xml.rels", relation("image", url))
    with zipfile.ZipFile(path, "a") as archive:
        template = relation("attachedTemplate", url)("<Relationships></Relationships>").replace(
            "<Relationships>", '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
        )
        archive.writestr("word/_rels/settings.xml.rels", template)


def pptx(path: Path, url: str) -> None:
    import pptx as library

    deck = library.Presentation()
    deck.slides.add_slide(deck.slide_layouts[5]).shapes.title.text = "words"
    deck.save(str(path))
    rewritten(path, "ppt/slides/_rels/slide1.xml.rels", relation("image", url))


def xlsx(path: Path, url: str) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    book.active.append(["words"])
    book.active.append([f'=WEBSERVICE("{url}")'])
    book.save(path)
    rewritten(path, "xl/_rels/workbook.xml.rels", relation("externalLinkPath", url))


def mail(path: Path, url: str) -> None:
    message = EmailMessage()
    message["Subject"] = "words"
    message.set_content(f'<p>words</p><img src="{url}">', subtype="html")
    message.add_attachment(f"<img src='{url}'> words", subtype="html", filename="a.html")
    path.write_bytes(message.as_bytes())


@pytest.mark.parametrize(
    ("name", "make"),
    [("a.html", html), ("a.md", markdown), ("a.docx", docx), ("a.pptx", pptx), ("a.xlsx", xlsx), ("a.eml", mail)],
)
def test_nothing_a_document_refers_to_is_fetched(
    tmp_path: Path, beacon: tuple[str, list[object]], name: str, make: Callable[[Path, str], None]
) -> None:
    url, met = beacon
    make(tmp_path / name, url)
    (document,) = parse(format_of(tmp_path / name), tmp_path / name, name)
    assert "words" in document.text
    assert met == []


def entities(body: str, secret: Path) -> str:
    laughs = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
    kinds = f'<!ENTITY l0 "ha">{laughs}<!ENTITY file SYSTEM "{secret.as_uri()}">'
    return f"<?xml version='1.0' encoding='UTF-8'?><!DOCTYPE x [{kinds}]>{body}"


def test_entities_of_a_word_document_are_not_expanded(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("xylophonist")
    docx(tmp_path / "a.docx", "http://127.0.0.1:9/x")
    rewritten(
        tmp_path / "a.docx",
        "word/document.xml",
        lambda xml: entities(xml.split("?>", 1)[1].replace(">words<", ">words &l9; &file;<"), tmp_path / "secret.txt"),
    )
    try:
        (document,) = parse("docx", tmp_path / "a.docx", "a.docx")
    except DataError:
        return
    assert "xylophonist" not in document.text
    assert len(document.text) < 1_000


def test_entities_of_a_sheet_are_refused_or_not_expanded(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("xylophonist")
    xlsx(tmp_path / "a.xlsx", "http://127.0.0.1:9/x")
    rewritten(
        tmp_path / "a.xlsx",
        "xl/sharedStrings.xml",
        lambda xml: entities(xml.split("?>", 1)[-1].replace(">words<", ">words &l9; &file;<"), tmp_path / "secret.txt"),
    )
    with Parser(time_limit_s=20) as parser:
        try:
            (document,) = read_file(Found(tmp_path / "a.xlsx", "a.xlsx"), parser)
        except DataError:
            return
    assert "xylophonist" not in document.text
    assert len(document.text) < 1_000


def test_a_page_nested_deeper_than_python_recurses_is_read_or_named(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<div>" * 20_000 + "words" + "</div>" * 20_000)
    with Parser(time_limit_s=60) as parser:
        try:
            (document,) = read_file(Found(tmp_path / "a.html", "a.html"), parser)
        except DataError as exc:
            assert "cannot be read" in str(exc)
            return
    assert document.text == "words"


def test_a_parser_that_needs_too_much_memory_loses_only_its_file(tmp_path: Path) -> None:
    (tmp_path / "big.json").write_text("[" + ",".join(["[1]"] * 4_000_000) + "]")
    (tmp_path / "b.html").write_text("<p>two</p>")
    with Parser(memory_limit_bytes=300 * 2**20) as parser:
        with pytest.raises(DataError, match=r"needs too much memory|brought its parser down"):
            list(read_file(Found(tmp_path / "big.json", "big.json"), parser))
        assert parser.read("html", tmp_path / "b.html", "b")[0].text == "two"


def test_a_pattern_does_not_lead_through_a_link_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "s.txt").write_text("xylophonist")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("words")
    (tmp_path / "docs" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "docs" / "link.txt").symlink_to(tmp_path / "secret" / "s.txt")
    search = find_files([tmp_path / "docs" / "**" / "*.txt"])
    assert [file.id for file in search.files] == ["a.txt"]
    assert {Path(left.path).name for left in search.left} == {"link.txt", "s.txt"}
