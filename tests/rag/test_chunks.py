from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rag.chunks import Chunking, cut
from rag.documents import Document, Section
from rag.passages import embedded_text, passage_row

Spans = Callable[[Sequence[str]], list[list[tuple[int, int]]]]

SMALL = Chunking(max_tokens=40, target_tokens=20, small_tokens=6, context_tokens=8)


def test_a_document_the_model_reads_whole_is_one_chunk(words: Spans) -> None:
    (chunk,) = cut(Document("d", "Title", "One. Two.\n\nThree."), words, SMALL)
    assert (chunk.text, chunk.start, chunk.end) == ("One. Two.\n\nThree.", 0, 17)


def test_the_title_and_headings_are_embedded_and_not_shown(words: Spans) -> None:
    text = "Press the button. " * 20
    document = Document("d", "Manual", text, (Section(0, len(text), ("Pump", "Starting")),))
    for chunk in cut(document, words, SMALL):
        assert embedded_text(passage_row(chunk)) == f"Manual > Pump > Starting\n{chunk.text}"


def test_a_title_that_begins_the_text_is_not_repeated(words: Spans) -> None:
    (chunk,) = cut(Document("d", "Tea", "Tea is a drink."), words, SMALL)
    assert embedded_text(passage_row(chunk)) == "Tea is a drink."


def test_a_long_context_line_keeps_the_innermost_heading(words: Spans) -> None:
    text = "word " * 60
    title = "a very long title that goes on and on and on"
    document = Document("d", title, text, (Section(0, len(text), ("Setup",)),))
    chunk = cut(document, words, SMALL)[0]
    assert chunk.context.startswith("a very long")
    assert chunk.context.endswith("> Setup")


def test_cuts_fall_between_sentences(words: Spans) -> None:
    text = " ".join(f"This is sentence number {i} of all." for i in range(12))
    chunks = cut(Document("d", "", text), words, SMALL)
    assert len(chunks) > 1
    assert all(chunk.text.endswith(".") for chunk in chunks)


def test_chunks_are_about_equally_long_without_a_crumb_at_the_end(words: Spans) -> None:
    text = " ".join(f"word{i}" for i in range(41))
    assert [chunk.tokens for chunk in cut(Document("d", "", text), words, SMALL)] in ([14, 14, 13], [13, 14, 14])


def test_sections_are_not_mixed_unless_one_is_small(words: Spans) -> None:
    first, second = "alpha " * 15, "beta " * 15
    document = Document(
        "d",
        "",
        first + second + "tail",
        (Section(0, 90, ("A",)), Section(90, 165, ("B",)), Section(165, 169, ("C",))),
    )
    chunks = cut(document, words, Chunking(max_tokens=24, target_tokens=20, small_tokens=6, context_tokens=4))
    assert [set(chunk.text.split()) for chunk in chunks] == [{"alpha"}, {"beta", "tail"}]
    assert [chunk.headings for chunk in chunks] == [("A",), ()]


def test_a_heading_alone_joins_what_it_heads(words: Spans) -> None:
    before, heading, after = "alpha " * 12, "Starting\n\n", "beta " * 14
    text = before + heading + after
    document = Document("d", "", text, (Section(0, 72), Section(72, 82, ("X",)), Section(82, len(text), ("X", "Y"))))
    chunks = cut(document, words, Chunking(max_tokens=24, target_tokens=20, small_tokens=6, context_tokens=4))
    assert [chunk.text.split()[0] for chunk in chunks] == ["alpha", "Starting"]


def test_a_chunk_knows_its_page(words: Spans) -> None:
    document = Document("d", "", "one " * 22 + "two " * 22, (Section(0, 88, (), 1), Section(88, 176, (), 2)))
    assert [chunk.page for chunk in cut(document, words, SMALL)] == [1, 1, 2, 2]


def test_blank_text_has_no_chunks(words: Spans) -> None:
    assert cut(Document("d", "T", " \n\n "), words, SMALL) == []


pieces = st.sampled_from(
    ["word", "two words", "end.", "\n", "\n\n", " ", "x" * 30, "日本語の文。", "é", ",", "\u2028", "🙂"]
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(parts=st.lists(pieces, max_size=120), cuts=st.sets(st.integers(0, 400), max_size=4))
def test_chunks_hold_every_visible_character_once_and_fit_the_model(
    words: Spans, parts: list[str], cuts: set[int]
) -> None:
    text = "".join(parts)
    bounds = [0, *sorted(at for at in cuts if 0 < at < len(text)), len(text)]
    sections = tuple(
        Section(start, end, (f"H{i}",)) for i, (start, end) in enumerate(itertools.pairwise(bounds)) if end > start
    )
    chunks = cut(Document("d", "Some title", text, sections), words, SMALL)
    assert "".join("".join(chunk.text.split()) for chunk in chunks) == "".join(text.split())
    for chunk in chunks:
        assert chunk.text == text[chunk.start : chunk.end]
        assert len(words([embedded_text(passage_row(chunk))])[0]) <= SMALL.max_tokens
    assert [chunk.number for chunk in chunks] == list(range(len(chunks)))
    assert all(a.end <= b.start for a, b in itertools.pairwise(chunks))


@pytest.mark.parametrize("text", ["0123456789abcdef" * 20_000, "x" + " " * 200_000 + "y", "\u200b" * 50_000 + "end"])
def test_a_word_or_gap_of_any_length_is_cut_and_not_lost(encoder_folder: Path, text: str) -> None:
    from rag.embedding import load_encoder

    encoder = load_encoder(str(encoder_folder), encoder_folder)
    chunks = cut(Document("d", "", text), encoder.spans, Chunking(max_tokens=encoder.max_tokens))
    assert "".join("".join(chunk.text.split()) for chunk in chunks) == "".join(text.split())
    assert max(len(chunk.text) for chunk in chunks) <= 64 * encoder.max_tokens


@pytest.mark.parametrize("title", ["", "A title", "long title " * 30])
def test_no_chunk_is_cut_off_by_the_real_model(encoder_folder: Path, title: str) -> None:
    from rag.embedding import load_encoder

    encoder = load_encoder(str(encoder_folder), encoder_folder)
    text = "\n\n".join(f"Paragraph {i}. Café naïve über-long, e.g. §3.{i}; 北京 is Beijing." * 3 for i in range(40))
    chunks = cut(Document("d", title, text), encoder.spans, Chunking(max_tokens=encoder.max_tokens))
    assert len(chunks) > 5
    for chunk in chunks:
        assert len(encoder.spans([embedded_text(passage_row(chunk))])[0]) <= encoder.max_tokens
