"""`tunefork report` on a run folder that holds what `advise` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.cli import main
from core.files import append_jsonl, write_json, write_text
from core.workspace import Workspace


@pytest.fixture
def run(workspace: Workspace) -> Path:
    """The run folder of the verdict in force of use case `faq`."""
    folder, _ = workspace.declare("faq", {"description": "questions"})
    run = folder.new_run("advise")
    verdict = {"route": "rag", "confidence": 0.97, "reasons": ["oracle gains."], "run": run.name}
    write_json(folder.verdict_path, verdict)
    write_json(run / "report.json", {"verdict": verdict})
    write_text(run / "report.html", "<html>page</html>")
    write_text(run / "report.md", "# faq")
    for item, cause, text in (("q1", "form_only", "Yes."), ("q2", "unfixable", "Ten days"), ("q3", "unfixable", "no")):
        answers = {"closed": {"outcome": "wrong", "text": text}, "few_shot:3": {"outcome": "correct", "text": "yes"}}
        append_jsonl(
            run / "ledger.jsonl",
            {"item": item, "cause": cause, "input": "How long?", "gold": ["yes"], "answers": answers},
        )
    return run


def report(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    code = main(["report", "faq", *args])
    out, err = capsys.readouterr()
    assert code == 0, err
    return out


def test_alone_it_says_the_verdict_and_where_the_page_is(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = report(capsys)
    assert out.startswith("faq: rag (confidence 97%)\n- oracle gains.\n")
    assert str(run / "report.html") in out


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--format", "html"], "<html>page</html>\n"),
        (["--format", "md"], "# faq\n"),
        (["--markdown"], "# faq\n"),
        (["--format", "md", "--markdown"], "# faq\n"),
    ],
)
@pytest.mark.usefixtures("run")
def test_a_format_is_printed_whole_and_alone(args: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(capsys, *args) == text


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("args", [["--json"], ["--format", "json"]])
def test_json_is_one_document(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(report(capsys, *args))["verdict"]["route"] == "rag"


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(
    ("args", "items"),
    [
        (["--failed"], ["q1", "q2", "q3"]),
        (["--cause", "unfixable"], ["q2", "q3"]),
        (["--find", "ten DAYS"], ["q2"]),
        (["--cause", "form_only", "--find", "ten"], []),
    ],
)
def test_failed_items_by_cause_and_text(args: list[str], items: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = json.loads(report(capsys, *args, "--json"))
    assert [row["item"] for row in rows] == items
    out = report(capsys, *args)
    assert out.rstrip().endswith(f"{len(items)} items")
    assert all(item in out for item in items)


@pytest.mark.usefixtures("run")
def test_every_arms_answer_stands_beside_the_item(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.split() for line in report(capsys, "--cause", "form_only").splitlines()]
    assert ["closed", "wrong", "Yes."] in lines
    assert ["few_shot:3", "correct", "yes"] in lines


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--cause", "form"], "did you mean form_only?"),
        (["--markdown", "--json"], "two formats"),
        (["--failed", "--format", "md"], "--format"),
    ],
)
def test_contradictions_and_unknown_causes_are_one_line(
    args: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "faq", *args]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_a_report_that_is_gone_says_how_to_make_it_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "report.md").unlink()
    assert main(["report", "faq", "--format", "md"]) != 0
    assert "run `tunefork advise faq` again" in capsys.readouterr().err
