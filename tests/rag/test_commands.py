"""The commands as a user runs them: output, exit code, one line for a mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.cli import main
from core.workspace import Workspace
from tests.rag.conftest import PASSAGES, write_corpus


def run(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([str(arg) for arg in args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def corpus(tmp_path: Path, home: Path, encoder_folder: Path) -> Path:
    return write_corpus(tmp_path / "corpus.jsonl")


def test_ingest_then_query_finds_the_passage(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "ingest", "facts", corpus, "--json")
    assert code == 0
    report = json.loads(out)
    assert (report["documents"], report["passages"], report["changed"]) == (5, 5, True)
    code, out, _ = run(capsys, "query", "facts", "Who was first on the moon?", "--top-k", "2", "--json")
    assert code == 0
    found = json.loads(out)
    assert [p["number"] for p in found["passages"]] == [1, 2]
    assert found["passages"][0]["document_id"] == "moon"
    assert found["passages"][0]["text"] == PASSAGES["moon"][1]
    code, out, _ = run(capsys, "query", "facts", "Who was first on the moon?", "--top-k", "1")
    assert code == 0
    assert out.startswith("[1] 0.")
    assert "Neil Armstrong" in out


def test_paths_add_up_and_are_remembered(tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = tmp_path / "more.txt"
    more.write_text("Glaciers are rivers of ice.")
    run(capsys, "ingest", "facts", corpus)
    assert json.loads(run(capsys, "ingest", "facts", more, "--json")[1])["documents"] == 6
    again = json.loads(run(capsys, "ingest", "facts", "--json")[1])
    assert (again["documents"], again["changed"]) == (6, False)
    replaced = json.loads(run(capsys, "ingest", "facts", more, "--replace", "--json")[1])
    assert replaced["documents"] == 1


def test_a_file_that_cannot_be_read_is_named_and_the_exit_code_says_so(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.pdf"
    broken.write_bytes(b"%PDF-1.4 garbage")
    code, out, err = run(capsys, "ingest", "facts", corpus, broken, "--json")
    assert code == 2
    report = json.loads(out)
    assert report["documents"] == 5
    assert [failed["path"] for failed in report["failed"]] == [str(broken)]
    assert f"failed: {broken}: " in err
    assert err.rstrip().endswith("tunefork: 1 file could not be read (named above); all others are indexed")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "thing: no such file or folder"),
        (lambda path: path.mkdir(), "thing: holds no documents"),
        (lambda path: path.write_bytes(b""), "thing: is empty; no document could be read"),
        (lambda path: path.write_bytes(b"\x00\x01\x02"), "thing: is binary, not text"),
    ],
)
def test_nothing_to_index_is_one_line_and_creates_no_index(
    tmp_path: Path, home: Path, encoder_folder: Path, capsys: pytest.CaptureFixture[str], make: object, says: str
) -> None:
    make(tmp_path / "thing")  # type: ignore[operator]
    code, out, err = run(capsys, "ingest", "facts", tmp_path / "thing", "--json")
    assert (code, out) == (2, "")
    assert says in err.rstrip().split("\n")[-1]
    assert not (home / "use_cases" / "facts" / "index" / "active").exists()


def test_a_path_that_does_not_exist_is_not_remembered(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "ingest", "facts", corpus)
    assert run(capsys, "ingest", "facts", corpus.parent / "nowhere")[0] == 2
    assert run(capsys, "ingest", "facts")[0] == 0


def test_a_query_before_any_ingest_says_what_to_run(
    workspace: Workspace, encoder_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace.declare("facts", {})
    code, _, err = run(capsys, "query", "facts", "anything")
    assert code == 2
    assert "run: tunefork ingest facts PATH" in err


def test_an_unknown_use_case_and_an_empty_query_are_named(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "ingest", "facts", corpus)
    code, _, err = run(capsys, "query", "fact", "x")
    assert (code, "did you mean facts?" in err) == (2, True)
    assert run(capsys, "query", "facts", "  ")[0] == 2


def test_an_unknown_embedding_model_is_named_with_near_ones(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "ingest", "facts", corpus, "--embedding-model", "all-minilm-l6")
    assert code == 2
    assert "did you mean all-minilm-l6-v2" in err


def test_an_index_held_by_another_is_said_to_be(corpus: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rag.open import open_retriever

    run(capsys, "ingest", "facts", corpus)
    workspace = Workspace(home)
    folder = workspace.use_case("facts")
    with open_retriever(folder, folder.settings(), workspace):
        code, _, err = run(capsys, "query", "facts", "tea")
    assert code == 2
    assert "the index of 'facts' is in use by another process" in err


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    rows = [
        {"id": "1", "question": "When did the Panama Canal open?", "answers": ["1914"], "context_ids": ["panama"]},
        {"id": "2", "question": "Who was first on the moon?", "answers": ["Armstrong"], "context_ids": ["moon"]},
        {"id": "3", "question": "Unmarked?", "answers": ["x"]},
        {"id": "4", "question": "Where is it?", "answers": ["x"], "context_ids": ["gone"]},
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_eval_retrieval_prints_every_score_with_its_interval(
    corpus: Path, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "ingest", "facts", corpus)
    per_query = tmp_path / "per_query.jsonl"
    code, out, err = run(
        capsys, "eval-retrieval", "facts", "--eval", questions, "--json", "--per-query", per_query, "--against", "dense"
    )
    assert code == 0
    value = json.loads(out)
    assert value["n"] == 3
    for metric in ("recall@5", "recall@10", "mrr", "ndcg@10"):
        assert value[metric]["value"] == pytest.approx(2 / 3)
        assert value[metric]["low"] < 2 / 3 < value[metric]["high"]
        assert value["against"][metric]["difference"]["value"] == 0
    assert value["latency_ms"]["p95"] >= value["latency_ms"]["p50"] > 0
    assert value["configuration"]["method"] == "hybrid"
    assert "1 relevant documents are not in the index" in err
    assert [json.loads(line)["ranking"][0] for line in per_query.read_text().splitlines()[:2]] == ["panama", "moon"]


def test_eval_retrieval_takes_qrels(
    corpus: Path, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "ingest", "facts", corpus)
    qrels = tmp_path / "qrels.tsv"
    qrels.write_text("query-id\tcorpus-id\tscore\n3\ttea\t1\n")
    code, out, _ = run(capsys, "eval-retrieval", "facts", "--eval", questions, "--qrels", qrels, "--json")
    assert (code, json.loads(out)["n"]) == (0, 1)


def test_eval_retrieval_without_an_eval_set_says_how_to_give_one(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "ingest", "facts", corpus)
    code, _, err = run(capsys, "eval-retrieval", "facts")
    assert code == 2
    assert "give one with --eval F" in err


@pytest.mark.slow
def test_xquad_gold_passages_are_found(
    home: Path, encoder_folder: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "ingest", "xquad", shared_data / "xquad" / "corpus_en.jsonl")
    questions = shared_data / "xquad" / "questions_en.jsonl"
    value = json.loads(run(capsys, "eval-retrieval", "xquad", "--eval", questions, "--against", "dense", "--json")[1])
    assert value["n"] == 1190
    assert value["recall@1"]["value"] > 0.93
    assert value["recall@5"]["value"] > 0.99
    assert value["against"]["ndcg@10"]["difference"]["low"] > 0


def test_query_takes_a_filter_and_search_flags(
    tmp_path: Path, home: Path, encoder_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"id": "a", "text": "The pump runs at four bar.", "year": 2023},
        {"id": "b", "text": "The pump runs at six bar.", "year": 2024},
    ]
    corpus = tmp_path / "c.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(capsys, "ingest", "pumps", corpus)
    newer = '{"type": "gte", "key": "year", "value": 2024}'
    value = json.loads(run(capsys, "query", "pumps", "pump pressure", "--filter", newer, "--json")[1])
    assert [p["document_id"] for p in value["passages"]] == ["b"]
    assert 0 <= value["evidence"] <= 1
    code, out, _ = run(capsys, "query", "pumps", "zebra", "--method", "dense", "--min-score", "0.99")
    assert (code, out) == (0, "no passage passes\nevidence 0.00 (0: these passages hardly answer it, 1: they do)\n")
    code, _, err = run(capsys, "query", "pumps", "x", "--mmr", "2")
    assert code == 2
    assert "--mmr = 2.0: Input should be less than 1" in err


def test_eval_retrieval_compares_with_the_settings_of_a_file(
    corpus: Path, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "ingest", "facts", corpus)
    other = tmp_path / "other.toml"
    other.write_text('[retrieval]\nfusion = "rrf"\ncandidates = 50\n')
    args = ("eval-retrieval", "facts", "--eval", questions, "--dense-weight", "0.4")
    value = json.loads(run(capsys, *args, "--against", other, "--json")[1])
    assert value["configuration"]["settings"] == {"dense_weight": 0.4}
    assert value["against"]["settings"] == {"fusion": "rrf", "candidates": 50}
    assert 0 < value["against"]["ndcg@10"]["p"] <= 1
    other.write_text("fusion = 'x'\n")
    code, _, err = run(capsys, *args, "--against", other)
    assert (code, "other.toml: fusion = 'x': Input should be 'convex' or 'rrf'" in err) == (2, True)
    code, _, err = run(capsys, *args, "--against", "nowhere")
    assert (code, "neither a method (hybrid, dense, lexical) nor a TOML file" in err) == (2, True)
