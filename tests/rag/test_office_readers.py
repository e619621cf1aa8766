"""Presentations, workbooks and mail: what is read of them, where it stands, and what is refused."""

from __future__ import annotations

import zipfile
from datetime import datetime
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from core.errors import DataError
from rag.documents import Document
from rag.readers import archive, format_of, parse


def read(path: Path) -> Document:
    (document,) = parse(format_of(path), path, path.name)
    return document


def deck(path: Path) -> Path:
    import pptx
    from pptx.util import Inches

    made = pptx.Presentation()
    made.core_properties.title = "Pump training"
    made.core_properties.created = datetime(2024, 5, 1, 9, 30)
    first = made.slides.add_slide(made.slide_layouts[1])
    first.shapes.title.text = "Start"
    first.placeholders[1].text = "Open the valve.\nPress the button."
    first.notes_slide.notes_text_frame.text = "Show the red valve."
    second = made.slides.add_slide(made.slide_layouts[5])
    second.shapes.title.text = "Pressure"
    table = second.shapes.add_table(2, 2, Inches(1), Inches(2), Inches(4), Inches(1)).table
    for i, text in enumerate(("pump", "bar", "A", "4")):
        table.cell(i // 2, i % 2).text = text
    group = second.shapes.add_group_shape()
    group.shapes.add_textbox(Inches(1), Inches(4), Inches(2), Inches(1)).text_frame.text = "Never above six."
    made.save(str(path))
    return path


def test_slides_are_pages_under_their_titles_with_tables_groups_and_notes(tmp_path: Path) -> None:
    document = read(deck(tmp_path / "a.pptx"))
    assert document.title == "Pump training"
    assert [(s.page, s.headings, document.text[s.start : s.end].strip()) for s in document.sections] == [
        (1, ("Start",), "Start\n\nOpen the valve.\nPress the button.\n\nNotes: Show the red valve."),
        (2, ("Pressure",), "Pressure\npump | bar\nA | 4\n\nNever above six."),
    ]
    assert (document.metadata["pages"], document.metadata["created"]) == (2, "2024-05-01T09:30:00Z")


def workbook(path: Path, **sheets: list[list[Any]]) -> Path:
    import openpyxl

    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def test_rows_of_a_sheet_are_read_under_its_columns(tmp_path: Path) -> None:
    path = workbook(
        tmp_path / "a.xlsx",
        Peaks=[["name", "height", "climbed"], ["Rigi", 1798, datetime(2024, 5, 1)], [], ["Tödi", 3614.5, None, "new"]],
        Empty=[],
        Flags=[["ok"], [True]],
    )
    document = read(path)
    assert document.text == (
        "Peaks\n\nname; height; climbed\nname: Rigi; height: 1798; climbed: 2024-05-01\nname: Tödi; height: 3614.5; new"
        "\n\nEmpty\n\nFlags\n\nok\nok: true"
    )
    assert [s.headings for s in document.sections] == [("Peaks",), ("Empty",), ("Flags",)]
    assert document.metadata["sheets"] == 3


def test_a_formula_that_was_saved_without_its_value_is_not_lost(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", S=[["a", "b"], [1, "=A2+1"]])
    assert read(path).text == "S\n\na; b\na: 1; b: =A2+1"


def test_an_empty_workbook_and_a_text_that_poses_as_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no values in its sheets"):
        read(workbook(tmp_path / "a.xlsx", S=[]))
    for name in ("b.xlsx", "b.pptx"):
        (tmp_path / name).write_text("not a zip archive")
        with pytest.raises(DataError, match="is damaged"):
            read(tmp_path / name)
        with zipfile.ZipFile(tmp_path / name, "w") as other:
            other.writestr("readme.txt", "a zip archive of something else")
        with pytest.raises(DataError, match="that can be read"):
            read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.docx", "a.pptx", "a.xlsx"])
def test_an_archive_that_unpacks_to_too_much_is_refused_before_it_is(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as bomb, bomb.open("x.xml", "w") as part:
        for _ in range(20):
            part.write(b"0" * 2**20)
    assert (tmp_path / name).stat().st_size < 100_000
    with pytest.raises(DataError, match=r"its part 'x.xml' unpacks to \d+ times its size, over the limit of 200"):
        read(tmp_path / name)


def test_an_archive_of_too_many_parts_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_ENTRIES", 3)
    with pytest.raises(DataError, match="parts, over the limit of 3"):
        read(workbook(tmp_path / "a.xlsx", S=[["a"]]))


def test_a_sheet_that_claims_billions_of_cells_is_read_by_what_it_holds(tmp_path: Path) -> None:
    import re

    source = workbook(tmp_path / "a.xlsx", S=[["a"], ["b"]])
    target = tmp_path / "b.xlsx"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "xl/worksheets/sheet1.xml":
                data, n = re.subn(rb'dimension ref="[^"]*"', b'dimension ref="A1:XFD1048576"', data)
                assert n == 1
            new.writestr(name, data)
    assert read(target).text == "S\n\na\na: b"


def message(path: Path, mail: EmailMessage) -> Path:
    path.write_bytes(mail.as_bytes())
    return path


def letter(subject: str, text: str) -> EmailMessage:
    mail = EmailMessage()
    mail["From"] = "Ann <ann@example.org>"
    mail["To"] = "bob@example.org, Carl <carl@example.org>"
    mail["Date"] = "Wed, 01 May 2024 11:30:00 +0200"
    mail["Subject"] = subject
    mail.set_content(text)
    return mail


def test_a_message_is_read_with_its_headers(tmp_path: Path) -> None:
    document = read(message(tmp_path / "a.eml", letter("Prüfung der Pumpe", "Liebe Leute,\nalles dicht.")))
    assert document.title == "Prüfung der Pumpe"
    assert document.text.endswith("Subject: Prüfung der Pumpe\n\nLiebe Leute,\nalles dicht.")
    assert document.text.startswith("From: Ann <ann@example.org>\nTo: bob@example.org, Carl")
    assert document.metadata == {
        "created": "2024-05-01T09:30:00Z",
        "author": "Ann <ann@example.org>",
        "from": "ann@example.org",
        "to": "bob@example.org, carl@example.org",
    }


def test_of_two_forms_the_plain_one_is_read_and_attachments_are_read_or_named(tmp_path: Path) -> None:
    mail = letter("Pumps", "The plain form.")
    mail.add_alternative("<p>The <b>HTML</b> form.</p>", subtype="html")
    mail.add_attachment("a,b\n1,2\n", subtype="csv", filename="table.csv")
    mail.add_attachment(b"\x89PNG", maintype="image", subtype="png", filename="photo.png")
    mail.add_attachment(letter("Inner", "The forwarded text."))
    document = read(message(tmp_path / "a.eml", mail))
    assert "The plain form." in document.text
    assert "HTML" not in document.text
    assert [s.headings for s in document.sections] == [(), ("table.csv",), ("Inner",)]
    assert document.text.endswith("The forwarded text.")
    assert document.metadata["attachments"] == "photo.png"


def test_a_message_in_html_alone_is_read_as_seen(tmp_path: Path) -> None:
    mail = letter("x", "y")
    mail.set_content("<p>Grüße</p><script>no</script>", subtype="html", charset="latin-1")
    assert read(message(tmp_path / "a.eml", mail)).text.endswith("Subject: x\n\nGrüße")


def test_a_message_with_a_false_encoding_is_not_lost(tmp_path: Path) -> None:
    raw = b"From: a@b.c\r\nSubject: s\r\nContent-Type: text/plain; charset=klingon\r\n\r\nna\xc3\xafve text\r\n"
    (tmp_path / "a.eml").write_bytes(raw)
    assert read(tmp_path / "a.eml").text.endswith("naïve text")


@pytest.mark.parametrize("content", [b"just some text\n", b"Subject: only\n\n", b"From: x\n\n\n"])
def test_what_is_no_message_or_holds_no_text_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.eml").write_bytes(content)
    with pytest.raises(DataError, match="is not a mail message|has no text"):
        read(tmp_path / "a.eml")
