from __future__ import annotations

from core.labels import closed_labels
from core.rows import Row
from tests.tuning.conftest import row


def _rows(answers: list[str]) -> list[Row]:
    return [row(f"question {i}", answer, i) for i, answer in enumerate(answers)]


def test_few_short_repeated_answers_are_labels() -> None:
    assert closed_labels(_rows(["spam", "ham"] * 10)) == ("ham", "spam")


def test_answers_that_hardly_repeat_are_not_labels() -> None:
    assert closed_labels(_rows([f"name {i // 2}" for i in range(40)])) is None


def test_sentences_are_not_labels() -> None:
    assert closed_labels(_rows(["Yes, it is open on all days.", "No."] * 10)) is None


def test_results_of_sums_are_not_labels_however_often_they_repeat() -> None:
    assert closed_labels(_rows([str(i % 20) for i in range(200)])) is None


def test_ratings_are_labels() -> None:
    assert closed_labels(_rows([str(1 + i % 5) for i in range(50)])) == ("1", "2", "3", "4", "5")


def test_one_answer_for_all_is_not_a_label_set() -> None:
    assert closed_labels(_rows(["yes"] * 20)) is None


def test_alternatives_are_not_labels() -> None:
    many = [Row(id=str(i), messages=row("q", "a").messages, answers=("Paris", "paris")) for i in range(20)]
    assert closed_labels(many) is None


def test_nothing_is_not_a_label_set() -> None:
    assert closed_labels([]) is None
