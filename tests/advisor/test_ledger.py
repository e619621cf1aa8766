"""Every failed item has one cause, the cheapest remedy that fixes it."""

from __future__ import annotations

from typing import Any

import pytest

from advisor.ledger import CAUSES, ledger
from core.rows import Row
from core.types import Message


def cells(**outcomes: str) -> dict[str, dict[str, Any]]:
    return {arm.replace("__", ":"): {"outcome": o, "answer": "text"} for arm, o in outcomes.items()}


def cause(cells_: dict[str, dict[str, Any]], covered: bool | None = None) -> str:
    row = Row("q", (Message("user", "?"),), ("gold",))
    (only,) = ledger([row], {"q": cells_}, None if covered is None else {"q": covered})
    assert only["cause"] in CAUSES
    return str(only["cause"])


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ({"closed": "wrong", "prompt": "correct", "tune": "correct"}, "prompt_fixes"),
        ({"closed": "wrong", "few_shot__8": "correct", "tune": "correct"}, "few_shot_fixes"),
        ({"closed": "wrong", "retrieved": "correct", "oracle": "correct"}, "retrieval_fixes"),
        ({"closed": "wrong", "retrieved": "wrong", "oracle": "correct"}, "retrieval_miss"),
        ({"closed": "wrong", "tune__head": "correct"}, "tuning_fixes"),
        ({"closed": "wrong", "tune": "wrong", "retrieved": "wrong", "tune_retrieved": "correct"}, "both_needed"),
        ({"closed": "wrong", "tune": "wrong"}, "unfixable"),
        ({"closed": "error", "tune": "correct"}, "call_failed"),
    ],
)
def test_the_cause_is_what_fixes_it(outcomes: dict[str, str], expected: str) -> None:
    assert cause(cells(**outcomes)) == expected


def test_documents_without_the_answer_are_told_from_ignored_passages() -> None:
    failed = cells(closed="wrong", oracle="wrong", retrieved="wrong")
    assert cause(failed, covered=False) == "not_in_corpus"
    assert cause(failed, covered=True) == "context_ignored"


def test_right_content_in_the_wrong_shape_is_form() -> None:
    failed = cells(closed="wrong", tune="correct")
    failed["closed"] |= {"content": 1, "form": 0}
    assert cause(failed) == "form_only"


def test_items_that_the_base_has_right_are_not_in_the_ledger() -> None:
    row = Row("q", (Message("user", "?"),), ("gold",))
    assert ledger([row], {"q": cells(closed="correct", tune="wrong")}, None) == []


def test_graded_answers_that_nobody_called_wrong_are_no_failures() -> None:
    row = Row("q", (Message("user", "?"),), ("gold",))
    graded = {"closed": {"outcome": None, "score": 0.3, "answer": "text"}}
    assert ledger([row], {"q": graded}, None) == []


def test_an_item_whose_gold_is_in_doubt_is_named_before_any_remedy() -> None:
    row = Row("q", (Message("user", "?"),), ("gold",))
    (only,) = ledger([row], {"q": cells(closed="wrong", tune="correct")}, None, frozenset(["q"]))
    assert only["cause"] == "suspect_gold"


@pytest.mark.parametrize(("shown", "expected"), [(True, "context_ignored"), (False, "retrieval_miss")])
def test_a_gold_document_that_our_retriever_shows_is_not_missed(shown: bool, expected: str) -> None:
    row = Row("q", (Message("user", "?"),), ("gold",))
    failed = cells(closed="wrong", oracle="correct", retrieved="wrong")
    (only,) = ledger([row], {"q": failed}, None, shown={"q": shown})
    assert only["cause"] == expected
