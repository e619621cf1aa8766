from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import DataError
from core.rows import Row
from core.types import Message, Source
from rag.evaluate import evaluate
from rag.metrics import ndcg, read_qrels, recall, reciprocal_rank


def test_recall_is_the_share_of_relevant_documents_found() -> None:
    assert recall(["a", "x", "b"], {"a": 1, "b": 2, "c": 1, "x": 0}, 2) == pytest.approx(1 / 3)


def test_reciprocal_rank_is_of_the_first_relevant_document() -> None:
    assert reciprocal_rank(["x", "a", "b"], {"a": 1, "b": 1}) == 0.5
    assert reciprocal_rank(["x"], {"a": 1}) == 0.0


def test_ndcg_by_hand() -> None:
    # grades 0, 2, 1 against the ideal 2, 1: (2/log2 3 + 1/log2 4) / (2 + 1/log2 3)
    assert ndcg(["x", "a", "b"], {"a": 2, "b": 1}, 10) == pytest.approx((1.26186 + 0.5) / 2.63093, abs=1e-5)


grades = st.dictionaries(st.sampled_from("abcdefghij"), st.integers(0, 3), min_size=1)


@given(st.permutations(list("abcdefghijklmno")), st.integers(1, 15), grades)
def test_metrics_are_those_of_trec_eval(order: list[str], size: int, judged: dict[str, int]) -> None:
    pytrec_eval = pytest.importorskip("pytrec_eval", reason="pytrec_eval is not installed")
    if not any(judged.values()):
        judged["a"] = 1
    ranking = order[:size]
    run = {"q": {id: float(len(ranking) - at) for at, id in enumerate(ranking)}}
    measures = {"recall.5,10", "recip_rank", "ndcg_cut.10"}
    theirs = pytrec_eval.RelevanceEvaluator({"q": judged}, measures).evaluate(run)["q"]
    assert recall(ranking, judged, 5) == pytest.approx(theirs["recall_5"])
    assert recall(ranking, judged, 10) == pytest.approx(theirs["recall_10"])
    assert reciprocal_rank(ranking, judged) == pytest.approx(theirs["recip_rank"])
    assert ndcg(ranking, judged, 10) == pytest.approx(theirs["ndcg_cut_10"])


@pytest.mark.parametrize(
    "text", ["query-id\tcorpus-id\tscore\nq1\ta\t1\nq1\tb\t2\n", "q1 0 a 1\nq1 0 b 2\n", "q1\ta\t1\nq1\tb\t2\n"]
)
def test_qrels_of_beir_and_trec_are_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "q.tsv").write_text(text)
    assert read_qrels(tmp_path / "q.tsv") == {"q1": {"a": 1, "b": 2}}


def test_a_line_that_is_no_judgement_is_named(tmp_path: Path) -> None:
    (tmp_path / "q.tsv").write_text("q1\ta\t1\nq1\tb\tgood\n")
    with pytest.raises(DataError, match=r"q.tsv:2"):
        read_qrels(tmp_path / "q.tsv")


def row(id: str, *context_ids: str) -> Row:
    return Row(id, (Message("user", f"text of {id}"),), ("x",), context_ids)


def answers(texts: list[str], top_k: int) -> list[list[Source]]:
    ranked = ["a", "a", "b", "c"]
    return [[Source(n, id, "", "", 1.0) for n, id in enumerate(ranked, start=1)][:top_k] for _ in texts]


def test_a_document_found_by_two_chunks_counts_once() -> None:
    result = evaluate(answers, ["a", "b", "c"], [row("1", "b")], None)
    assert result.queries[0].ranking == ("a", "b", "c")
    assert result.metrics["mrr"].value == 0.5


def test_rows_without_gold_are_not_scored_and_missing_gold_counts_as_missed() -> None:
    result = evaluate(answers, ["a", "b", "c"], [row("1", "a"), row("2"), row("3", "gone")], None)
    assert result.metrics["recall@5"].n == 2
    assert result.metrics["recall@5"].value == 0.5
    assert (result.without_gold, result.unknown_gold) == (1, 1)


def test_qrels_take_the_place_of_context_ids() -> None:
    result = evaluate(answers, ["a", "b", "c"], [row("1", "a")], {"1": {"c": 1}})
    assert result.metrics["recall@1"].value == 0.0


def test_an_eval_set_without_any_gold_is_refused() -> None:
    with pytest.raises(DataError, match="nothing to score"):
        evaluate(answers, ["a"], [row("1")], None)
