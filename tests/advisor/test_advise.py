"""The whole of `advise` on a scripted base model, with the real index and files: verdict, resume, bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.cli import main
from core.errors import EngineTimeout, EngineUnavailable
from core.files import read_json
from core.types import Request
from core.workspace import Workspace
from tests.advisor.runs import advise, write_rows

CITIES = {f"Country{i}": f"Townsville{chr(65 + i)}" for i in range(24)}

pytestmark = pytest.mark.usefixtures("encoder_folder")


def knows_only_its_passages(request: Request) -> str:
    """A model without knowledge: it copies the capital that a passage names for the country asked about."""
    text = request.messages[-1].content
    asked = next(c for c in CITIES if text.rstrip("?").endswith(c))
    return CITIES[asked] if f"capital of {asked} is" in text else "I like trains."


@pytest.fixture(autouse=True)
def capitals(project: Path) -> None:
    """Questions about capitals, and the documents that answer them."""
    rows = [{"id": c, "question": f"What is the capital of {c}?", "answers": [t]} for c, t in CITIES.items()]
    write_rows(project / "eval.jsonl", rows)
    docs = [
        {"id": f"doc-{c}", "title": c, "text": f"The capital of {c} is {t}. It has a river."} for c, t in CITIES.items()
    ]
    write_rows(project / "corpus.jsonl", docs)


def test_a_model_without_knowledge_gets_retrieval(
    workspace: Workspace, project: Path, base: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    base(knows_only_its_passages)
    verdict = advise(capsys, "capitals", "--eval", str(project / "eval.jsonl"), "--docs", str(project / "corpus.jsonl"))
    assert (verdict["route"], verdict["ready"]) == ("rag", True)
    assert verdict["arms"]["closed"]["correct"] == 0
    assert verdict["arms"]["oracle"]["correct"] == 24

    folder = workspace.use_case("capitals")
    run = folder.path / "runs" / verdict["run"]
    report = read_json(run / "report.json")
    assert report["ledger"]["counts"] == {"retrieval_fixes": 24}
    assert {a["arm"] for a in report["absent"]} >= {"few_shot:3", "tune:head", "tune:lora"}
    assert "<html" in (run / "report.html").read_text(encoding="utf-8")
    assert read_json(run / "status.json")["state"] == "done"
    assert folder.verdict() == verdict


def test_the_outcome_table_of_a_run_gives_the_same_verdict_to_decide(
    workspace: Workspace, project: Path, base: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    base(knows_only_its_passages)
    verdict = advise(capsys, "capitals", "--eval", str(project / "eval.jsonl"), "--docs", str(project / "corpus.jsonl"))
    table = workspace.use_case("capitals").path / "runs" / verdict["run"] / "outcomes.jsonl"
    assert main(["decide", str(table), "--json"]) == 0
    decided = json.loads(capsys.readouterr().out)
    for key in ("route", "ready", "quantities", "comparisons"):
        assert decided[key] == verdict[key]


def test_a_stopped_run_goes_on_where_it_stopped(
    workspace: Workspace, project: Path, base: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = 0

    def dies(request: Request) -> str | EngineUnavailable:
        nonlocal asked
        asked += 1
        return EngineUnavailable("the machine went away") if asked > 30 else knows_only_its_passages(request)

    args = ("capitals", "--eval", str(project / "eval.jsonl"), "--docs", str(project / "corpus.jsonl"))
    base(dies)
    assert main(["advise", *args, "--json"]) == 1
    assert "the machine went away" in capsys.readouterr().err
    (run,) = (run for run in workspace.use_case("capitals").runs() if run.name.endswith("-advise"))
    assert read_json(run / "status.json")["state"] == "failed"

    engine = base(knows_only_its_passages)
    verdict = advise(capsys, *args)
    assert verdict["route"] == "rag"
    assert len(engine.requests) == 3 * 24 - 30


def test_failed_calls_are_errors_and_not_wrong_answers(
    project: Path, base: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def sometimes(request: Request) -> str | EngineTimeout:
        failing = request.messages[-1].content.endswith("Country3?")
        return EngineTimeout("slow") if failing else knows_only_its_passages(request)

    base(sometimes)
    verdict = advise(capsys, "capitals", "--eval", str(project / "eval.jsonl"), "--docs", str(project / "corpus.jsonl"))
    assert verdict["arms"]["closed"]["error"] == 1
    assert verdict["arms"]["closed"]["n"] == 23


def test_three_items_are_undecided_with_the_number_that_would_settle_it(
    project: Path, base: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (project / "eval.jsonl").read_text(encoding="utf-8").splitlines()[:3]
    (project / "three.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    base(knows_only_its_passages)
    verdict = advise(capsys, "few", "--eval", str(project / "three.jsonl"), "--docs", str(project / "corpus.jsonl"))
    assert verdict["route"] == "undecided"
    assert any(need["n"] and need["n"] > 3 for need in verdict["needs"])


def test_a_knowledge_case_without_documents_says_what_to_supply(
    project: Path, base: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    base(lambda _: "I like trains.")
    assert main(["advise", "bare", "--eval", str(project / "eval.jsonl")]) == 0
    out = capsys.readouterr().out
    assert "UNDECIDED" in out
    assert (
        "not run: oracle, oracle_few_shot (there are no documents; supply documents (--docs PATH) or the gold passage in"
        in out
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "eval.jsonl"),
        ("", "empty"),
        ("{not json\n", ":1:"),
        ('{"foo": 1, "bar": 2}\n', "foo"),
        ('{"id": "a", "question": "x", "answer": "y"}\n{"id": "a", "question": "z", "answer": "y"}\n', ":2:"),
    ],
    ids=["missing", "empty", "garbled", "unknown fields", "duplicate ids"],
)
def test_a_bad_eval_file_is_one_line_with_file_and_line(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, says: str
) -> None:
    path = tmp_path / "eval.jsonl"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    assert main(["advise", "bad", "--eval", str(path)]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert str(path) in err
    assert err.count("\n") == 1


def test_training_on_the_eval_file_is_refused(home: Path, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(project / "eval.jsonl")
    assert main(["advise", "leaky", "--eval", path, "--train", path]) == 2
    assert "the same as the eval set" in capsys.readouterr().err


def test_missing_documents_are_named_before_anything_is_run(
    home: Path, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["advise", "x", "--eval", str(project / "eval.jsonl"), "--docs", str(project / "nowhere")]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err


def test_an_unknown_base_model_lists_near_names(home: Path, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", "x", "--eval", str(project / "eval.jsonl"), "--base-model", "smolm2-135m-instruct"]) == 2
    assert "did you mean smollm2-135m-instruct" in capsys.readouterr().err


def test_a_second_advise_of_the_same_use_case_is_told_so(
    workspace: Workspace, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = workspace.declare("busy", {"eval": project / "eval.jsonl"})
    with folder.lock("advise"):
        assert main(["advise", "busy"]) == 2
    assert "`advise` of use case 'busy' is in use by another process" in capsys.readouterr().err


def test_a_dry_run_asks_nothing_and_counts_everything(
    home: Path, project: Path, base: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = base(knows_only_its_passages)
    args = ["--eval", str(project / "eval.jsonl"), "--docs", str(project / "corpus.jsonl"), "--dry-run", "--json"]
    assert main(["advise", "dry", *args]) == 0
    estimate = json.loads(capsys.readouterr().out)
    assert engine.requests == []
    assert estimate["total"]["calls"] == 24 * len(estimate["arms"])
    assert {arm["arm"] for arm in estimate["arms"]} == {"closed", "oracle", "retrieved"}


def test_a_dry_run_says_how_answers_would_be_scored_and_changes_no_use_case(
    workspace: Workspace, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["advise", "dry", "--eval", str(project / "eval.jsonl"), "--dry-run"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "24 eval rows, 0 training rows. Scored by `contains`: the gold answers are short texts" in out
    # It makes the use case, so that the next command needs only the name ...
    assert main(["advise", "dry", "--dry-run", "--top-k", "7", "--scorer", "exact"]) == 0
    assert "Scored by `exact`" in capsys.readouterr().out
    # ... and asks what would be of one that is there.
    settings = workspace.use_case("dry").settings()
    assert (settings.eval, settings.top_k, settings.scorer) == (project / "eval.jsonl", 4, None)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--scorer", "lable"], "did you mean label"),
        (["--docs", "nowhere"], "does not exist"),
        (["--base-model", "smolm"], "unknown model 'smolm'"),
        (["--arms", "retreived"], "did you mean retrieved"),
    ],
)
def test_what_cannot_be_used_is_not_remembered(
    workspace: Workspace, project: Path, capsys: pytest.CaptureFixture[str], flags: list[str], says: str
) -> None:
    args = ["advise", "faq", "--eval", str(project / "eval.jsonl"), *flags]
    for more in ([], ["--dry-run"]):
        assert main([*args, *more]) == 2
        assert says in capsys.readouterr().err
        assert workspace.names() == []
