"""Normal form: what is the same to a reader is the same to a scorer, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.text import contains, content_tokens, language, normalise, scripts, tokens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Denver Broncos.", "denver broncos"),
        ("U.S.", "us"),
        ("1,000 (3.5%)", "1000 3.5"),
        ("-5 and 10-20", "-5 and 10 20"),
        ("-$5", "-5"),
        ("red-hot card_arrival", "red hot card arrival"),
        ("O'Neil’s", "oneils"),
        ("C++ and C#", "c++ and c#"),
        ("¿Cuántos puntos?", "cuantos puntos"),
        ("Müller, façade, pingüino", "muller façade pinguino"),
        ("El Niño", "niño"),
        ("四次，共 308 分。", "四 次 共 308 分"),
        ("ｆｕｌｌ　ｗｉｄｔｈ", "full width"),
        ("हिन्दी भाषा", "हिन्दी भाषा"),
        ("A", "a"),
        ("+", "+"),
    ],
)
def test_normal_form(text: str, expected: str) -> None:
    assert normalise(text) == expected


@pytest.mark.parametrize(
    ("text", "part", "held"),
    [
        ("They were the Denver Broncos!", "denver broncos", True),
        ("concatenate", "cat", False),
        ("in 1,990 years", "1990", True),
        ("in 19901 years", "1990", False),
        ("卡罗来纳黑豹队赢了", "黑豹队", True),
        ("It is a cat", "A", True),
        ("It is the cat", "A", False),
        ("The University of Chicago", "university of the chicago", True),
        ("anything", "", False),
        ("cost: $5 million", "$5 million", True),
    ],
)
def test_containment_is_at_word_boundaries(text: str, part: str, held: bool) -> None:
    assert contains(text, part) is held


@given(st.text(max_size=60))
def test_normal_form_is_stable_and_holds_itself(text: str) -> None:
    found = content_tokens(text)
    assert all(token and not token.isspace() for token in found)
    if found:
        assert contains(text, text)


@given(st.text(st.characters(categories=["L", "Nd", "Zs"], include_characters=".,!?"), max_size=40))
def test_case_and_outer_space_do_not_matter(text: str) -> None:
    assert tokens(f"  {text}\n") == tokens(text)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("How do I know if the card is on its way?", "en"),
        ("¿Cuántos puntos dejaron escapar en defensa los Panthers?", "es"),
        ("黑豹队的防守丢了多少分？", "zh"),
        ("日本の首都はどこですか", "ja"),
        ("Wie kann ich das mit der Karte machen?", "de"),
        ("Столица Франции", "ru"),
        ("308", None),
        ("Paris", None),
    ],
)
def test_language(text: str, code: str | None) -> None:
    assert language(text) == code


def test_scripts_count_letters_only() -> None:
    assert scripts("ab 12, 黑豹!") == {"LATIN": 2, "CJK": 2}
