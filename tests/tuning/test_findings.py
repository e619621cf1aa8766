"""What is odd about training rows is found, named with its lines, and nothing else is."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from core.rows import Row
from tests.tuning.conftest import row
from tuning.findings import Finding, row_findings


def _rows(*pairs: tuple[str, str]) -> list[Row]:
    return [row(text, answer, line) for line, (text, answer) in enumerate(pairs, start=1)]


def _codes(rows: Sequence[Row], **given: object) -> dict[str, Finding]:
    return {f.code: f for f in row_findings(rows, **{"labels": None, **given})}  # type: ignore[arg-type]


PLAIN = [(f"question number {word}", f"answer {word}") for word in ("one", "two", "three", "four")]
PROSE = [
    (
        f"tell me about {word}",
        f"The story of {word} is a long one that everybody knows in full and likes to tell again.",
    )
    for word in ("rivers", "birds", "stones", "clouds", "trees", "roads", "boats", "lamps", "books")
]


def test_ordinary_rows_have_no_findings() -> None:
    assert _codes(_rows(*PLAIN)) == {}
    assert _codes(_rows(*PROSE)) == {}


def test_repeated_rows_count_twice_and_are_said() -> None:
    found = _codes(_rows(*PLAIN, ("Question  number ONE?", "answer one")))
    assert found["duplicates"].lines == (5,)


def test_one_input_with_two_answers_is_a_conflict() -> None:
    found = _codes(_rows(*PLAIN, ("question number one", "something else")))
    assert found["conflicts"].lines == (1, 5)
    assert "duplicates" not in found


@pytest.mark.parametrize(
    "answer",
    [
        "The story of hills is a long one that everybody knows in full and likes to tell again and ag",
        "Run this:\n```\nls -l",
    ],
    ids=["prose without its end", "an open code fence"],
)
def test_an_answer_that_lost_its_end_is_found(answer: str) -> None:
    found = _codes(_rows(*PROSE, ("tell me about hills", answer)))
    assert found["truncated_answers"].lines == (10,)


def test_json_that_breaks_off_is_found() -> None:
    rows = [(f"who is {n}", f'{{"name": "{n}"}}') for n in range(8)]
    assert _codes(_rows(*rows, ("who is 9", '{"name": "9')))["truncated_answers"].lines == (9,)


def test_answers_cut_at_one_length_are_found() -> None:
    rows = [(f"q {n}", f"{n} " + "word " * 60) for n in range(4)]
    cut = [(text, answer[:200]) for text, answer in rows]
    assert _codes(_rows(*PLAIN, *cut))["truncated_answers"].count == 4


def test_prose_that_never_ends_in_a_point_is_a_style() -> None:
    rows = [
        (
            f"query {n}",
            f"select a, b, c from a_rather_long_table_name where another_column_of_it = 'some value {n}x' and d",
        )
        for n in range(9)
    ]
    assert _codes(_rows(*rows)) == {}


def test_inputs_of_the_eval_set_are_a_leak() -> None:
    long = "please tell me how the very long cable that leads from my house to yours was laid in spring"
    rows = _rows(*PLAIN, (long + " by whom", "by ship"))
    held_out = _rows(("Question number two", "answer two"), (long, "by boat"))
    found = _codes(rows, evaluation=held_out)
    assert found["leakage"].lines == (2,)
    assert found["near_leakage"].lines == (5,)
    assert "leakage" not in _codes(rows, evaluation=_rows(("another question", "x")))


def test_labels_are_counted_and_compared() -> None:
    rows = _rows(*[(f"text {n}", "yes") for n in range(20)], *[(f"more {n}", "no") for n in range(4)], ("last", "Yes"))
    found = _codes(rows, labels=("Yes", "no", "yes"))
    assert "20 of 25 rows have the label 'yes'" in found["imbalance"].text
    assert "2 of 3 labels have fewer than 5 rows: Yes, no" in found["rare_labels"].text
    assert "'Yes' and 'yes'" in found["label_spelling"].text


def test_eval_labels_that_nobody_taught_are_named() -> None:
    rows = _rows(*[(f"text {n}", "yes") for n in range(5)], *[(f"more {n}", "no") for n in range(5)])
    held_out = _rows(("fresh one", "yes"), ("fresh two", "maybe"))
    found = _codes(rows, labels=("no", "yes"), evaluation=held_out)
    assert found["unseen_labels"].lines == (2,)
    assert "1 of 2 eval rows have a label that no training row has" in found["unseen_labels"].text


def test_a_mix_of_languages_is_said() -> None:
    english = [(f"what is the name of the river in the town {n}", "x") for n in range(8)]
    german = [(f"wie ist der Name von dem Fluss in der Stadt {n}", "x") for n in range(4)]
    assert "de 33%" in _codes(_rows(*english, *german))["languages"].text
