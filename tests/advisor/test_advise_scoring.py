"""`advise` with a judge, the house's own refusals, contaminated items, and demonstrations chosen by likeness."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from advisor.build import build
from core.cli import main
from core.engines.scripted import ScriptedEngine
from core.files import read_json
from core.types import Message, Request
from core.workspace import Workspace
from serve.catalog import Catalog

TOWNS = [f"Town{chr(65 + i)}" for i in range(24)]


def question(i: int) -> str:
    return f"Which town is number {i} on the list?"


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    rows = [{"id": f"q{i}", "question": question(i), "answers": [town]} for i, town in enumerate(TOWNS)]
    write(tmp_path / "eval.jsonl", rows)
    return tmp_path


def declare(project: Path, more: str) -> str:
    path = project / "use_case.toml"
    path.write_text(f'name = "towns"\neval = "eval.jsonl"\n{more}', encoding="utf-8")
    return str(path)


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> dict[str, ScriptedEngine]:
    """Scripted engines by the name of their model; tests put them in."""
    table: dict[str, ScriptedEngine] = {}
    monkeypatch.setattr("advisor.advise.open_engine", lambda name, *_: table[name])
    return table


def run(capsys: pytest.CaptureFixture[str], workspace: Workspace, *args: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The verdict and the report."""
    code = main(["advise", *args, "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    verdict = json.loads(out)
    return verdict, read_json(workspace.use_case("towns").path / "runs" / verdict["run"] / "report.json")


def paraphrase(request: Request) -> str:
    """Right for even items, in words that no string comparison sees."""
    number = int(request.messages[-1].content.split("number ")[1].split()[0])
    return f"the place with letter {chr(65 + number)}" if number % 2 == 0 else "somewhere else"


def sees_letters(request: Request) -> str:
    text = request.messages[-1].content
    town = text.split("<reference>\n")[1].split("\n")[0]
    if "letter U" in text:
        return "I like trains."
    return "CORRECT" if f"letter {town[-1]}" in text else "WRONG"


def labelled(project: Path, n: int = 20) -> None:
    rows = [
        {"item": f"q{i}", "answer": f"the place with letter {'Z' if i % 2 else chr(65 + i)}", "label": int(i % 2 == 0)}
        for i in range(n)
    ]
    write(project / "labelled.jsonl", rows)


JUDGE = '[judge]\nmodel = "judge"\nlabelled = "labelled.jsonl"\n'


def test_a_judge_that_agrees_with_people_scores_and_its_agreement_is_shown(
    workspace: Workspace, project: Path, engines: dict[str, ScriptedEngine], capsys: pytest.CaptureFixture[str]
) -> None:
    engines |= {
        "base": ScriptedEngine(paraphrase, name="base"),
        "judge": ScriptedEngine(sees_letters, name="judge"),
    }
    labelled(project)
    verdict, report = run(capsys, workspace, declare(project, f'base_model = "base"\n{JUDGE}'))
    # Town U (item 20) is what the judge talks nonsense about: an error, not a wrong answer.
    closed = verdict["arms"]["closed"]
    assert (closed["correct"], closed["wrong"], closed["error"]) == (11, 12, 1)
    assert report["scorer"]["name"] == "judge:judge"
    assert report["judge"]["trusted"]
    assert report["judge"]["agreement"]["kappa"]["value"] == 1
    assert (report["judge"]["judged"], report["judge"]["unjudged"]) == (24, 1)
    warnings = {warning["code"]: warning["text"] for warning in verdict["warnings"]}
    assert "20 of 20 labelled answers" in warnings["judge"]
    assert "'I like trains.'" in warnings["judge_no_verdict"]


@pytest.mark.parametrize("calls", [81, 95, 130])
def test_calls_of_base_and_judge_together_are_within_the_budget(
    workspace: Workspace,
    project: Path,
    engines: dict[str, ScriptedEngine],
    calls: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    engines |= {"base": ScriptedEngine(paraphrase, name="base"), "judge": ScriptedEngine(sees_letters, name="judge")}
    labelled(project)
    toml = declare(project, f'base_model = "base"\n{JUDGE}')
    # Measuring the judge takes 80 calls; an item takes one call of the base and two to four of the judge.
    if calls == 81:
        assert main(["advise", toml, "--budget-calls", "81"]) == 2
        assert "does not pay for one item in 1 arms: that may take 5 calls" in capsys.readouterr().err
        return
    verdict, report = run(capsys, workspace, toml, "--budget-calls", str(calls), "--full")
    spent = len(engines["base"].requests) + len(engines["judge"].requests)
    assert calls - 5 < spent == report["budget"]["calls_spent"] <= calls
    assert report["budget"]["stopped"]
    closed = verdict["arms"]["closed"]
    assert 0 < closed["n"] + closed["error"] == len(engines["base"].requests) < 24
    assert report["judge"]["judged"] == len(engines["base"].requests)


def test_a_budget_that_does_not_hold_the_judges_measurement_spends_nothing(
    workspace: Workspace, project: Path, engines: dict[str, ScriptedEngine], capsys: pytest.CaptureFixture[str]
) -> None:
    engines |= {"base": ScriptedEngine(paraphrase, name="base"), "judge": ScriptedEngine(sees_letters, name="judge")}
    labelled(project)
    toml = declare(project, f'base_model = "base"\n{JUDGE}')
    assert main(["advise", toml, "--budget-calls", "79"]) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert "measuring the judge on its 20 labelled answers: that may take 80 calls" in err
    assert engines["base"].requests == engines["judge"].requests == []
    far = JUDGE.replace('"judge"', '"judge@http://127.0.0.1:9/v1"')
    assert main(["advise", declare(project, f'base_model = "base"\n{far}'), "--budget", "1"]) == 2
    assert "needs the prices of the remote judge" in capsys.readouterr().err


def test_a_dry_run_counts_the_judge(
    workspace: Workspace, project: Path, engines: dict[str, ScriptedEngine], capsys: pytest.CaptureFixture[str]
) -> None:
    labelled(project)
    far = JUDGE.replace('"judge"', '"judge@http://127.0.0.1:9/v1"') + "input_usd_per_1m = 2.0\n"
    toml = declare(project, f'base_model = "base"\n{far}')
    for calls, enough in ((151, False), (152, True)):
        assert main(["advise", toml, "--dry-run", "--json", "--budget-calls", str(calls)]) == 0
        estimate = json.loads(capsys.readouterr().out)
        assert [(arm["arm"], arm["calls"]) for arm in estimate["arms"]] == [("closed", 24), ("judge", 80 + 2 * 24)]
        assert estimate["budget"]["enough"] is enough
    assert estimate["arms"][1]["usd"] == pytest.approx(estimate["arms"][1]["input_tokens"] * 2e-6, abs=1e-5)


@pytest.mark.parametrize("n", [0, 20], ids=["no labels", "disagrees"])
def test_a_judge_that_has_not_shown_agreement_decides_nothing(
    workspace: Workspace,
    project: Path,
    engines: dict[str, ScriptedEngine],
    capsys: pytest.CaptureFixture[str],
    n: int,
) -> None:
    engines |= {
        "base": ScriptedEngine(paraphrase, name="base"),
        "judge": ScriptedEngine(lambda _: "CORRECT", name="judge"),
    }
    labelled(project)
    judge = JUDGE if n else '[judge]\nmodel = "judge"\n'
    verdict, report = run(capsys, workspace, declare(project, f'base_model = "base"\n{judge}'))
    assert verdict["arms"]["closed"]["correct"] == 0
    assert report["scorer"]["name"] == "contains"
    assert "judge_not_trusted" in {warning["code"] for warning in verdict["warnings"]}
    assert len(engines["judge"].requests) == 4 * n


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("[judge]\nlabelled = 'x.jsonl'\n", "judge.model is missing"),
        ("[judge]\nmodel = 'm'\nvotes = 3\n", "judge.votes = 3"),
        ("[judge]\nmodel = 'm'\nmodell = 'x'\n", "unknown setting 'judge.modell'; known: model, labelled"),
        ("[judge]\nmodel = 'm'\nlabelled = 'nowhere.jsonl'\n", "nowhere.jsonl: there is no such file"),
        ("scorer = 'judge'\n", "name its model in use_case.toml, under [judge]"),
        ("refusals = ['ok', '(open']\n", "'(open' is not a regular expression: missing ), unterminated"),
        ("refusals = 'a*'\n", "'a*' is found in every answer"),
    ],
)
def test_a_wrong_declaration_is_one_line(
    home: Path, project: Path, capsys: pytest.CaptureFixture[str], toml: str, says: str
) -> None:
    assert main(["advise", declare(project, toml)]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def test_the_houses_own_refusals_are_refusals(
    workspace: Workspace, project: Path, engines: dict[str, ScriptedEngine], capsys: pytest.CaptureFixture[str]
) -> None:
    engines["base"] = ScriptedEngine(lambda _: "Please ask the front desk.", name="base")
    toml = declare(project, 'base_model = "base"\nrefusals = ["ask the front desk"]\n')
    verdict, _ = run(capsys, workspace, toml)
    assert verdict["arms"]["closed"]["refused"] == 24
    # They are remembered with the use case.
    verdict, _ = run(capsys, workspace, "towns")
    assert verdict["arms"]["closed"]["refused"] == 24


TOPICS = {"shoes": "refund", "parcel": "delivery", "password": "account"}


def support(project: Path, n: int, leaked: int) -> str:
    """Support questions with one label each; `leaked` eval rows stand in the training rows too."""
    names = list(TOPICS)

    def made(kind: str, i: int) -> dict[str, Any]:
        topic = names[i % 3]
        words = f"{kind} {i} {'abcdefgh'[i % 8] * 9} {'stuvwxyz'[i // 8 % 8] * 9}"
        return {"id": f"{kind}{i}", "input": f"Hello {words}, it is about the {topic}", "output": TOPICS[topic]}

    evaluation = [made("e", i) for i in range(n)]
    train = [made("t", i) for i in range(60)] + [{**row, "id": f"copy-{row['id']}"} for row in evaluation[:leaked]]
    write(project / "eval.jsonl", evaluation)
    write(project / "train.jsonl", train)
    return declare(project, 'base_model = "base"\ntrain = "train.jsonl"\n')


def copies_the_last_example(request: Request) -> str:
    examples = [m.content for m in request.messages if m.role == "assistant"]
    return examples[-1] if examples else "no idea at all"


def test_contaminated_items_are_named_and_every_arm_is_scored_without_them(
    workspace: Workspace, project: Path, engines: dict[str, ScriptedEngine], capsys: pytest.CaptureFixture[str]
) -> None:
    def remembers(request: Request) -> str:
        asked = request.messages[-1].content
        number = int(asked.split()[2])
        shown = any(m.role == "assistant" for m in request.messages)
        return TOPICS[asked.split()[-1]] if shown and number < 10 else "no idea at all"

    engines["base"] = ScriptedEngine(remembers, name="base")
    verdict, report = run(capsys, workspace, support(project, 30, leaked=10), "--arms", "few_shot:3")
    found = report["contamination"]
    assert set(found["items"]) == {f"e{i}" for i in range(10)}
    assert found["items"]["e0"] == ["leakage"]
    assert (found["n"], found["of"]) == (10, 30)
    assert found["arms"]["few_shot:3"]["with"]["correct"] == 10
    assert found["arms"]["few_shot:3"]["without"]["correct"] == 0
    assert verdict["route"] == "few-shot"
    assert found["verdict_without"]["route"] != "few-shot"
    assert found["verdict_changes"]
    (text,) = (warning["text"] for warning in verdict["warnings"] if warning["code"] == "leakage")
    assert "10 of 30 items are contaminated" in text
    assert "take them out before acting on it" in text


def test_without_leaks_nothing_is_scored_twice(
    workspace: Workspace, project: Path, engines: dict[str, ScriptedEngine], capsys: pytest.CaptureFixture[str]
) -> None:
    engines["base"] = ScriptedEngine(copies_the_last_example, name="base")
    verdict, report = run(capsys, workspace, support(project, 30, leaked=0), "--arms", "few_shot:3")
    assert report["contamination"] is None
    assert "leakage" not in {warning["code"] for warning in verdict["warnings"]}


@pytest.mark.usefixtures("encoder_folder")
def test_demonstrations_by_likeness_are_measured_built_and_served_alike(
    workspace: Workspace, project: Path, engines: dict[str, ScriptedEngine], capsys: pytest.CaptureFixture[str]
) -> None:
    base = engines["base"] = ScriptedEngine(copies_the_last_example, name="base")
    verdict, report = run(capsys, workspace, support(project, 30, leaked=3), "--arms", "few_shot")
    arms = {arm["name"]: arm for arm in report["arms"]}
    assert {"few_shot:3", "few_shot:8", "few_shot:3_similar", "few_shot:8_similar"} <= set(arms)
    assert arms["few_shot:8_similar"]["correct"] > arms["few_shot:8"]["correct"]
    assert verdict["route"] == "few-shot"
    asked = [request for request in base.requests if "Hello e 0 " in request.messages[-1].content]
    shown = [m.content for request in asked for m in request.messages[:-1] if m.role == "user"]
    assert shown
    assert not any("Hello e 0 " in text for text in shown)

    folder, settings = workspace.declare("towns", {})
    remedy = build(folder, settings, workspace)
    assert remedy.demonstrations == ()
    assert remedy.demonstrations_version is not None
    assert remedy.shots in (3, 8)

    serving = ScriptedEngine(copies_the_last_example, name="base")
    catalog = Catalog(workspace, lambda _: serving)
    with catalog.lease("towns") as served:
        served.engine.complete([Request((Message("user", "Hello e 7 hhhhhhhhh sssssssss, it is about the password"),))])
    catalog.close()
    (request,) = serving.requests
    assert len(request.messages) >= 2 * remedy.shots + 1
    measured = next(r for r in asked if len([m for m in r.messages if m.role == "assistant"]) == remedy.shots)
    assert request.messages[0] == measured.messages[0]


def test_failed_items_are_listed_by_cause(
    workspace: Workspace, project: Path, engines: dict[str, ScriptedEngine], capsys: pytest.CaptureFixture[str]
) -> None:
    engines["base"] = ScriptedEngine(copies_the_last_example, name="base")
    run(capsys, workspace, support(project, 30, leaked=0), "--arms", "few_shot:3")

    def failed(*args: str) -> list[dict[str, Any]]:
        assert main(["report", "towns", *args, "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert isinstance(rows, list)
        return rows

    rows = failed("--failed")
    assert {row["cause"] for row in rows} == {"few_shot_fixes", "unfixable"}
    assert failed("--cause", "few_shot_fixes") == [row for row in rows if row["cause"] == "few_shot_fixes"]
