"""Answers that list labels are told from single labels and from prose, and taken apart as they are written."""

from __future__ import annotations

import pytest

from core.label_lists import label_parts, listed, separator
from core.labels import are_numbers, head_task
from core.rows import Row
from core.types import Message


def _rows(answers: list[str]) -> list[Row]:
    return [Row(str(n), (Message("user", f"row {n}"),), (answer,)) for n, answer in enumerate(answers)]


@pytest.mark.parametrize(
    ("answers", "task"),
    [
        (["red; big", "blue; small", "red; small", "blue; big"] * 5, "multi"),
        (["red", "blue"] * 5, "single"),
        (['["red", "big"]', '["blue", "small"]', '["red", "small"]', '["blue", "big"]'] * 5, "single"),
        ([f"the tale of {n}" for n in range(20)], None),
        ([f"{n}" for n in range(20)], None),
    ],
)
def test_what_a_classifier_would_be_asked_for(answers: list[str], task: str | None) -> None:
    assert head_task(_rows(answers)) == task


def test_lists_written_as_json_are_known_as_lists_all_the_same() -> None:
    assert label_parts(['["a", "b"]', '["a", "c"]', '["b", "c"]'] * 3) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("answers", "labels", "mark"),
    [
        (["a, b", "c"], ["a", "b"], ", "),
        (["a|b", "a|c"], ["a", "b"], "|"),
        (["research and development; sales"], ["research and development", "sales"], "; "),
        (["only"], ["only"], ", "),
    ],
)
def test_labels_are_taken_apart_at_marks_alone(answers: list[str], labels: list[str], mark: str) -> None:
    assert listed(answers[0]) == labels
    assert separator(answers) == mark


def test_answers_with_units_are_numbers_and_words_are_not() -> None:
    assert are_numbers(_rows(["4.5", "-3", "12 %", "$1,200"]))
    assert not are_numbers(_rows(["4.5", "four"]))
    assert not are_numbers([])
