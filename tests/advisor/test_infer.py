"""The scorer follows from the gold answers, and the reason is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from advisor.infer import infer_scorer
from core.errors import ConfigError, UnknownName
from core.rows import Row, read_rows
from tests.advisor.rows import labelled, row


def _rows(*golds: str) -> list[Row]:
    return [row(f"question {i}", gold) for i, gold in enumerate(golds)]


@pytest.mark.parametrize(
    ("golds", "name"),
    [
        ([f"{17 * i} km" for i in range(30)], "numeric"),
        ([f"So it is {i}.\n#### {i}" for i in range(30)], "numeric"),
        ([f'{{"a": {i}}}' for i in range(30)], "json"),
        ([f"SELECT a FROM t WHERE b = {i}" for i in range(30)], "sql"),
        ([("a, b", "a", "b, c", "a, c, d")[i % 4] + (", e" if i % 5 == 0 else "") for i in range(40)], "multi_label"),
        ([f"the town of number {i}" for i in range(30)], "contains"),
        ([f"word{i} " * 20 for i in range(30)], "token_f1"),
        ([f"word{i} " * 90 for i in range(30)], "rouge_l"),
    ],
)
def test_scorer_by_kind_of_gold(golds: list[str], name: str) -> None:
    scorer = infer_scorer(_rows(*golds), [], None)
    assert scorer.name == name
    assert scorer.why.startswith(f"Scored by `{name}`")


def test_closed_labels_of_the_training_rows_are_the_vocabulary() -> None:
    scorer = infer_scorer(_rows("spam", "ham"), labelled({"spam": 5, "ham": 5, "eggs": 5}), None)
    assert (scorer.name, scorer.labels) == ("label", ("eggs", "ham", "spam"))


def test_closed_labels_of_the_eval_rows_do_without_training_rows() -> None:
    assert infer_scorer(labelled({"yes": 9, "no": 9}), [], None).labels == ("no", "yes")


def test_numbers_that_repeat_are_no_labels() -> None:
    rows = _rows(*(str(i % 40) for i in range(200)))
    assert infer_scorer(rows, rows, None).name == "numeric"


def test_rows_without_gold_are_scored_on_refusals_alone() -> None:
    scorer = infer_scorer([row("q", answerable=False)], [], None)
    assert "refusing is right" in scorer.why


def test_the_named_scorer_wins() -> None:
    scorer = infer_scorer(_rows("1", "2"), [], "token_f1>=0.5")
    assert (scorer.name, scorer.threshold) == ("token_f1>=0.5", 0.5)
    assert "as the use case says" in scorer.why


def test_a_named_label_scorer_takes_its_labels_from_the_rows() -> None:
    assert infer_scorer(_rows("a", "b"), _rows("c"), "label").labels == ("a", "b", "c")
    assert infer_scorer(_rows("a, b"), _rows("c"), "multi_label").labels == ("a", "b", "c")


def test_an_unknown_scorer_lists_near_ones() -> None:
    with pytest.raises(UnknownName, match="did you mean numeric"):
        infer_scorer(_rows("1"), [], "numerical")
    with pytest.raises(ConfigError, match="no gold labels"):
        infer_scorer([row("q", answerable=False)], [], "label")


@pytest.mark.parametrize(
    ("name", "train", "scorer"),
    [
        ("xquad/questions_en", None, "contains"),
        ("xquad/questions_es", None, "contains"),
        ("xquad/questions_zh", None, "contains"),
        ("squad2_dev_half/questions_dev", None, "contains"),
        ("banking77/test", "banking77/train", "label"),
        ("pubmedqa_l/test", "pubmedqa_l/train", "label"),
        ("scifact/dev", "scifact/train", "label"),
        ("gsm8k/test", "gsm8k/train", "numeric"),
        ("wikisql_sub/test", "wikisql_sub/train", "sql"),
        ("debian_faq/questions", None, "rouge_l"),
    ],
)
def test_scorer_of_public_sets(shared_data: Path, name: str, train: str | None, scorer: str) -> None:
    rows = read_rows(shared_data / f"{name}.jsonl", "evaluation")
    trained = read_rows(shared_data / f"{train}.jsonl", "training") if train else []
    assert infer_scorer(rows, trained, None).name == scorer
