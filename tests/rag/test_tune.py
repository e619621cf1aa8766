"""Choosing search settings: by the dev half, judged on the test half, kept only when shown to be better."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.cli import main
from core.errors import DataError
from core.rows import Row
from core.search_settings import SearchSettings
from core.types import Message
from core.workspace import Workspace
from rag.evaluate import Judged, judged_rows
from rag.open import open_retriever
from rag.retrieve import Retriever
from rag.tune import candidates, halves, tune
from tests.rag.conftest import write_corpus

PARTS = ("valve", "pump", "filter", "hose", "wheel", "lamp", "motor", "fan", "belt", "gear", "seal", "tank")
CODES = {
    f"part{i}{j}": (f"{part.title()} {j}", f"The {part} with the code Q{i}{j}X is for machine {j}.")
    for i, part in enumerate(PARTS)
    for j in range(4)
}


def rows() -> list[Row]:
    """Questions that only the words can answer: every document is about a machine part with a code."""
    return [
        Row(f"{id}-{n}", (Message("user", text),), ("x",), (id,))
        for id, (_, passage) in CODES.items()
        for n, text in enumerate((passage.split()[5], f"what is {passage.split()[5]} for"))
    ]


@pytest.fixture
def retriever(tmp_path: Path, workspace: Workspace, ingest_into: Callable[..., object]) -> Iterator[Retriever]:
    ingest_into("parts", write_corpus(tmp_path / "c.jsonl", CODES))
    folder, settings = workspace.declare("parts", {"retrieval": {"method": "dense"}})
    with open_retriever(folder, settings, workspace) as opened:
        yield opened


def test_no_document_has_questions_in_both_halves() -> None:
    dev, test = halves(judged_rows(rows(), None), 0)
    assert len(dev) + len(test) == len(rows())
    assert abs(len(dev) - len(test)) <= 2
    assert not {id for one in dev for id in one.grades} & {id for one in test for id in one.grades}


def test_too_few_questions_are_refused() -> None:
    with pytest.raises(DataError, match="too few to choose and to judge by"):
        halves([Judged(row, {"a": 1}) for row in rows()], 0)


def test_the_current_settings_are_tried_first_and_nothing_twice() -> None:
    current = SearchSettings(method="dense", near_duplicates=0.8)
    tried = list(candidates(current, "late"))
    assert tried[0] == current
    assert len(set(tried)) == len(tried)
    assert {one.near_duplicates for one in tried} == {0.8}
    assert {one.rerank_model for one in tried} == {None, "late"}


def test_settings_shown_to_be_better_are_kept_and_others_are_not(retriever: Retriever) -> None:
    judged = judged_rows(rows(), None)
    found = tune(retriever, judged, 4)
    assert found.kept == found.best != found.current
    assert found.difference.low > 0
    assert found.best_score.value > found.current_score.value
    assert found.top_k == 1
    retriever.settings = found.best
    again = tune(retriever, judged, 4)
    assert again.kept == found.best


def test_a_budget_that_nothing_meets_says_so(retriever: Retriever, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag.tune.LATENCY_QUERIES", 2)
    with pytest.raises(DataError, match="no search is within 0.001 ms at p95; the fastest tried takes"):
        tune(retriever, judged_rows(rows(), None), 4, budget_ms=0.001)


def test_the_command_writes_the_choice_to_the_use_case(
    retriever: Retriever, workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    retriever.close()
    path = tmp_path / "eval.jsonl"
    lines = [{"id": r.id, "question": r.input, "answers": ["x"], "context_ids": r.context_ids} for r in rows()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    args = ["tune-retrieval", "parts", "--eval", str(path), "--json"]
    assert main([*args, "--dry-run"]) == 0
    dry = json.loads(capsys.readouterr().out)
    folder = workspace.use_case("parts")
    assert (dry["written"], folder.settings().retrieval.method) == (False, "dense")
    assert main(args) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["written"]
    assert value["n"] == {"dev": 48, "test": 48}
    assert value["difference"]["p"] < 0.05
    assert folder.settings().retrieval == SearchSettings(**value["kept"]["settings"])
    assert folder.settings().top_k == value["kept"]["top_k"] == 1
    assert main(args[:-1]) == 0
    assert "the use case's settings stay as they are" in capsys.readouterr().out
