from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.types import Source
from rag.citations import citations, place


def sources(n: int) -> list[Source]:
    return [Source(i, f"d{i}", "", "text", 1.0) for i in range(1, n + 1)]


@pytest.mark.parametrize(
    ("text", "cited", "unknown"),
    [
        ("It opened in 1914 [2].", (2,), ()),
        ("Both [1][3], and [2, 3].", (1, 3, 2), ()),
        ("All of them [1-3].", (1, 2, 3), ()),
        ("Made up [7], right [1].", (1,), (7,)),
        ("None at all.", (), ()),
        ("`array[1]` and ```x[2]``` are code; [1](https://example.org) is a link.", (), ()),
        ("运河于1914年开通【1】。", (1,), ()),
        ("A year is none [1914].", (), ()),
    ],
)
def test_citations_are_read_and_checked(text: str, cited: tuple[int, ...], unknown: tuple[int, ...]) -> None:
    assert citations(text, sources(3)) == (cited, unknown)


@given(st.text(alphabet="[]0123456789,-– ab", max_size=60), st.integers(0, 5))
def test_what_is_cited_exists_and_what_is_unknown_does_not(text: str, n: int) -> None:
    found = citations(text, sources(n))
    assert set(found.cited) <= set(range(1, n + 1))
    assert not set(found.unknown) & set(range(1, n + 1))


def test_a_place_names_file_page_heading_and_characters() -> None:
    where = {"file": "guide.pdf", "page": 3, "headings": "Setup > Network", "start": 10, "end": 90}
    assert (
        place(Source(1, "guide.pdf", "Guide", "x", 1.0, where))
        == "guide.pdf, page 3, Setup > Network, characters 10-90"
    )
    assert place(Source(1, "row 7", "", "x", 1.0, {"file": "c.jsonl"})) == "c.jsonl, row 7"
