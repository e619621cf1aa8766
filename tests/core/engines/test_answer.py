"""The text of an answer as its tokens arrive."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.engines.answer import AnswerText, Detokenizer, StopStrings

LETTERS = st.text("abc", max_size=30)


def _bytes(ids: Sequence[int]) -> str:
    """A byte-level tokenizer: a token is a byte."""
    return bytes(ids).decode(errors="replace")


def _cut(text: str, places: list[int]) -> list[str]:
    edges = [0, *sorted(p % (len(text) + 1) for p in places), len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


@given(LETTERS, st.lists(st.text("abc", min_size=1, max_size=4), max_size=3), st.lists(st.integers(0, 100), max_size=8))
def test_a_stop_string_cuts_alike_however_the_text_is_cut_into_pieces(
    text: str, stop: list[str], places: list[int]
) -> None:
    pieces = StopStrings(stop)
    shown = "".join(pieces.push(piece) for piece in _cut(text, places)) + pieces.finish()
    letters = StopStrings(stop)
    expected = "".join(letters.push(letter) for letter in text) + letters.finish()
    assert shown == expected
    assert pieces.found == letters.found == any(s in text for s in stop)
    assert not any(s in shown for s in stop)


@given(LETTERS, st.text("abc", min_size=1, max_size=4))
def test_one_stop_string_cuts_at_its_first_place(text: str, stop: str) -> None:
    strings = StopStrings([stop])
    assert strings.push(text) + strings.finish() == text.split(stop)[0]


def test_text_that_may_begin_a_stop_string_is_held_back() -> None:
    strings = StopStrings(["\n\nUser:"])
    assert strings.push("Yes.\n") == "Yes."
    assert strings.push("\nUs") == ""
    assert strings.push("ually.") == "\n\nUsually."


@given(st.text(max_size=40))
def test_tokens_that_are_single_bytes_give_whole_characters_only(text: str) -> None:
    if "\ufffd" in text:
        return
    tokens = Detokenizer(_bytes)
    pieces = [tokens.push(byte) for byte in text.encode()]
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)


def test_bytes_that_never_become_a_character_are_dropped_at_the_end() -> None:
    answer = AnswerText(_bytes, [])
    for byte in b"ab" + "é".encode()[:1]:
        answer.push(byte)
    answer.finish()
    assert answer.text == "ab"


def test_invalid_bytes_do_not_hold_the_answer_up_for_ever() -> None:
    answer = AnswerText(_bytes, [])
    for byte in b"\xff" * 20 + b"then text":
        answer.push(byte)
    assert answer.text.endswith("then text")


@pytest.mark.parametrize(
    "text", ["Grüße, naïve café", "日本語のテキスト", "👩‍👩‍👧 and 🏳️‍🌈", "a\n\n  b\tc", "x² + ∑ ≠ ½"]
)
def test_a_real_tokenizer_gives_the_text_back(starter_folder: object, text: str) -> None:
    from core.engines.tokens import ChatTokenizer

    tokens = ChatTokenizer(starter_folder)  # type: ignore[arg-type]
    answer = AnswerText(tokens.text, ["never said"])
    pieces = [answer.push(token) for token in tokens.ids(text)]
    assert "".join(pieces) + answer.finish() == text == answer.text
    assert not any("\ufffd" in piece for piece in pieces)
