"""From an answer to an outcome: content and form apart, refusals apart, unanswerable rows the other way round."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.form import FormSpec, learn_form
from advisor.infer import infer_scorer
from advisor.scorers import parse_scorer
from advisor.scoring import Scored, outcome
from core.errors import DataError
from tests.advisor.rows import gold, labelled, row

TRAIN = labelled({"card_arrival": 6, "refund": 6, "unknown": 6})
LABEL = infer_scorer(TRAIN, TRAIN, None)
LABEL_FORM = learn_form(TRAIN)
CONTAINS = parse_scorer("contains")
NO_FORM = FormSpec()


@pytest.mark.parametrize(
    ("answer", "scored"),
    [
        ("refund", Scored("correct", 1, 1, 1.0)),
        ("The label is Refund.", Scored("wrong", 1, 0, 1.0)),
        ("card_arrival", Scored("wrong", 0, 1, 0.0)),
        ("something else", Scored("wrong", 0, 0, 0.0)),
        ("I don't know.", Scored("refused", 0, 0, 0.0)),
        ("unknown", Scored("wrong", 0, 1, 0.0)),  # a label here, not a refusal
    ],
)
def test_labels(answer: str, scored: Scored) -> None:
    assert outcome(answer, gold("refund"), LABEL, LABEL_FORM) == scored


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The Denver Broncos won.", "correct"),
        ("I am not sure, but I think it was the Denver Broncos.", "correct"),
        ("The Panthers won.", "wrong"),
        ("The passages do not say who won.", "refused"),
        ("", "wrong"),
    ],
)
def test_short_free_answers(answer: str, expected: str) -> None:
    assert outcome(answer, gold("Denver Broncos"), CONTAINS, NO_FORM).outcome == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("The passages do not say.", "correct"), ("Denver Broncos", "wrong"), ("", "wrong"), ("No answer", "correct")],
)
def test_unanswerable_rows_want_a_refusal(answer: str, expected: str) -> None:
    assert outcome(answer, row("q", answerable=False), CONTAINS, LABEL_FORM).outcome == expected


def test_a_houses_own_words_for_refusing_are_its_gold() -> None:
    unanswerable = row("q", "Please ask the front desk", answerable=False)
    assert outcome("Please ask the front desk.", unanswerable, CONTAINS, NO_FORM).outcome == "correct"


def test_own_refusal_patterns_count() -> None:
    answer = "Please ask the front desk."
    assert outcome(answer, gold("x"), CONTAINS, NO_FORM).outcome == "wrong"
    assert outcome(answer, gold("x"), CONTAINS, NO_FORM, refusals=["front desk"]).outcome == "refused"


def test_an_answer_cut_off_has_no_learnt_shape() -> None:
    assert outcome("refund", gold("refund"), LABEL, LABEL_FORM, "length") == Scored("wrong", 1, 0, 1.0)
    assert outcome("Paris is the", gold("Paris"), CONTAINS, NO_FORM, "length").outcome == "correct"


def test_graded_answers_are_kept_as_numbers() -> None:
    scorer = parse_scorer("token_f1")
    assert outcome("Denver Broncos won", gold("Denver Broncos"), scorer, NO_FORM) == Scored(None, None, 1, 0.8)
    assert outcome("I don't know.", gold("Denver Broncos"), scorer, NO_FORM).outcome == "refused"
    assert (
        outcome("Denver Broncos won", gold("Denver Broncos"), parse_scorer("token_f1>=0.5"), NO_FORM).outcome
        == "correct"
    )


def test_a_row_without_gold_cannot_be_scored() -> None:
    with pytest.raises(DataError, match="'q' has no gold answer"):
        outcome("x", row("q"), CONTAINS, NO_FORM)


@given(st.text(max_size=80))
def test_correct_is_content_and_form(answer: str) -> None:
    scored = outcome(answer, gold("refund"), LABEL, LABEL_FORM)
    assert (scored.outcome == "correct") == (scored.content == 1 and scored.form == 1)
    assert scored.content in (0, 1)
    if scored.outcome == "refused":
        assert scored.content == 0
