"""`advise` in steps: it stops when the verdict stands, within its budget, and goes on after an endpoint went away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from advisor.extras import sentence
from advisor.looks import Progress
from advisor.pilots import Pilot
from core.cli import main
from core.engines.remote import RemoteEngine
from core.engines.retries import Retrying
from core.engines.scripted import ScriptedEngine
from core.types import Request
from core.workspace import Workspace
from tests.advisor.runs import advise, report_of, write_rows
from tests.core.engines.endpoint import Endpoint, send, serving

CITIES = {f"Country{i:03d}": f"Ville{'abcdefghij'[i // 10]}{'klmnopqrst'[i % 10]}" for i in range(60)}


def knows_only_its_passages(request: Request) -> str:
    text = request.messages[-1].content
    asked = next(c for c in CITIES if text.rstrip("?").endswith(c))
    return CITIES[asked] if f"capital of {asked} is" in text else "I like trains."


@pytest.fixture(autouse=True)
def capitals(project: Path) -> None:
    """Rows with their gold passages, so that no index is needed: the arms are closed and oracle."""
    rows = [
        {
            "id": c,
            "question": f"What is the capital of {c}?",
            "answers": [t],
            "context": [f"The capital of {c} is {t}."],
        }
        for c, t in CITIES.items()
    ]
    write_rows(project / "eval.jsonl", rows)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advisor.running.PAUSE_S", 0.0)


def run(capsys: pytest.CaptureFixture[str], project: Path, *more: str) -> dict[str, Any]:
    return advise(capsys, "capitals", "--eval", str(project / "eval.jsonl"), *more)


def test_a_clear_case_needs_a_part_of_the_calls_and_says_so(
    workspace: Workspace, project: Path, base: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = base(knows_only_its_passages)
    verdict = run(capsys, project)
    assert (verdict["route"], verdict["ready"], verdict["route_arm"]) == ("rag", None, None)
    steps = report_of(workspace, "capitals", verdict)["sequential"]
    assert steps["stopped_by"] == "verdict"
    assert steps["full_calls"] == 2 * 60
    assert len(engine.requests) == steps["calls"] < steps["full_calls"] / 2
    assert steps["saved_calls"] == steps["full_calls"] - steps["calls"]
    assert any("calls" in reason and "saved" in reason for reason in verdict["reasons"])
    assert not any(warning["code"] == "missing_items" for warning in verdict["warnings"])

    asked = len(engine.requests)
    engine = base(knows_only_its_passages)
    full = run(capsys, project, "--full")
    assert full["route"] == "rag"
    assert {arm["n"] for arm in full["arms"].values()} == {60}
    assert len(engine.requests) == 2 * 60 - asked  # what was answered before is not asked again


@pytest.mark.parametrize("calls", [7, 30])
def test_a_budget_of_calls_is_never_exceeded(
    workspace: Workspace, project: Path, base: Any, calls: int, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = base(knows_only_its_passages)
    verdict = run(capsys, project, "--budget-calls", str(calls), "--full")
    report = report_of(workspace, "capitals", verdict)
    assert len(engine.requests) == report["budget"]["calls_spent"] == calls - calls % 2
    assert report["budget"]["stopped"]
    assert report["sequential"]["stopped_by"] == "budget"
    assert [need["n"] for need in verdict["needs"] if need["what"] == "calls"] == [2 * 60 - 2 * (calls // 2)]
    assert {arm["n"] for arm in verdict["arms"].values()} == {calls // 2}
    assert verdict["route"] == ("undecided" if calls == 7 else "rag")


def test_a_budget_in_dollars_is_kept_at_the_prices_of_what_was_really_billed(
    workspace: Workspace, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(ScriptedEngine(knows_only_its_passages)) as endpoint:
        prices = ["--input-usd-per-1m", "10", "--output-usd-per-1m", "40"]
        model = ["--base-model", f"m@{endpoint.url}", "--max-tokens", "8", *prices]
        verdict = run(capsys, project, *model, "--full", "--budget", "0.02")
        billed = [endpoint.engine.count_tokens(m["content"]) for b in endpoint.bodies for m in b["messages"]]
        spent = report_of(workspace, "capitals", verdict)["budget"]["usd_spent"]
    assert sum(billed) * 10 / 1e6 <= spent <= 0.02
    assert spent > 0.01  # it is used, too: what one batch does not need, the next one may spend
    assert {arm["n"] for arm in verdict["arms"].values()} == {len(endpoint.bodies) // 2}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--budget-calls", "1", "--full"], "does not pay for one item in 2 arms"),
        (["--budget-calls", "0"], "--budget-calls is 0"),
        (["--budget", "-1"], "--budget is -1"),
        (["--budget", "nan"], "--budget is nan"),
        (["--budget", "1", "--base-model", "m@http://127.0.0.1:9/v1"], "needs the prices"),
        (["--constraint", "must_cite", "--arms", "prompt"], "must_cite leaves only retrieval"),
        (["--constraint", "freshness", "--constraint", "freshness=no"], "is given as True and as False"),
    ],
)
def test_what_cannot_be_kept_is_one_line(
    project: Path, base: Any, home: Path, options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = base(knows_only_its_passages)
    args = ["--eval", str(project / "eval.jsonl")]
    assert main(["advise", "capitals", *args, *options]) == 2
    assert says in capsys.readouterr().err.splitlines()[-1]
    assert engine.requests == []


def test_a_pilot_that_the_budget_does_not_hold_is_left_out_and_the_rest_is_asked(
    workspace: Workspace, project: Path, base: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    base(knows_only_its_passages)
    rows = [{"id": f"t{i}", "question": f"Say {i}", "answer": f"word{i}"} for i in range(20)]
    (project / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--train", str(project / "train.jsonl"), "--arms", "oracle,tune:lora", "--machine-usd-per-hour", "3600"]
    verdict = run(capsys, project, *options, "--budget", "100", "--full")
    assert set(verdict["arms"]) == {"closed", "oracle"}
    dropped = report_of(workspace, "capitals", verdict)["sequential"]["dropped"]
    assert [(entry["arm"], entry["why"]) for entry in dropped] == [
        ("tune:lora", "the budget does not hold the training of its pilot")
    ]


def test_a_dry_run_says_whether_the_budget_holds_it_all(
    project: Path, base: Any, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base(knows_only_its_passages)
    args = ["--eval", str(project / "eval.jsonl"), "--dry-run", "--json"]
    for calls, enough in (("100", False), ("120", True)):
        assert main(["advise", "capitals", *args, "--budget-calls", calls]) == 0
        assert json.loads(capsys.readouterr().out)["budget"]["enough"] is enough


@pytest.fixture
def curves(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pilots that know the answers and cost no training; filled with the rows of each that was wanted."""
    rows: list[int] = []

    def pilot(*args: Any, most: int = 200, seed: int | None = None, **_: Any) -> Pilot:
        rows.append(min(most, len(args[3])))
        return Pilot("lora", Path(f"pilot-{rows[-1]}-{seed}"), rows[-1], f"pilot-{rows[-1]}-{seed}", 0.0)

    monkeypatch.setattr("advisor.arms.lora_pilot", pilot)
    monkeypatch.setattr("advisor.learning_curve.lora_pilot", pilot)
    return rows


@pytest.mark.parametrize("calls", [130, 300])
def test_a_learning_curve_is_drawn_as_far_as_the_budget_goes(
    workspace: Workspace, project: Path, base: Any, curves: list[int], calls: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def learnt(request: Request) -> str:
        return "I like trains." if request.adapter is None else request.messages[-1].content.split()[-1]

    engine = base(learnt)
    write_rows(project / "train.jsonl", [{"id": f"t{i}", "question": f"Say {i}", "answer": f"{i}"} for i in range(60)])
    options = ["--train", str(project / "train.jsonl"), "--arms", "tune:lora", "--learning-curve", "--full"]
    verdict = run(capsys, project, *options, "--budget-calls", str(calls))
    report = report_of(workspace, "capitals", verdict)
    assert len(engine.requests) == report["budget"]["calls_spent"] <= calls
    (curve,) = report["learning_curve"]
    # Closed and the arm take 120 calls, each of three pilots more 60.
    assert curves == ([60] if calls == 130 else [60, 15, 15, 30])
    assert len(curve["points"]) == len(curves)
    assert ("the learning curve of tune:lora" in report["budget"]["text"]) == (calls == 130)
    assert ("budget did not hold 3 of the pilots" in curve["text"]) == (calls == 130)


def test_a_dry_run_counts_the_learning_curve(
    project: Path, home: Path, base: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(project / "train.jsonl", [{"id": f"t{i}", "question": f"Say {i}", "answer": f"{i}"} for i in range(60)])
    options = ["--eval", str(project / "eval.jsonl"), "--train", str(project / "train.jsonl"), "--arms", "tune:lora"]
    assert main(["advise", "capitals", *options, "--learning-curve", "--dry-run", "--json"]) == 0
    arms = {arm["arm"]: arm for arm in json.loads(capsys.readouterr().out)["arms"]}
    assert arms["tune:lora learning curve"]["calls"] == 3 * 60
    assert arms["tune:lora learning curve"]["usd"] > arms["tune:lora"]["usd"]


def dies_after(endpoint: Endpoint, answers: int) -> None:
    """From that many answers on, the server hangs up on everyone."""

    def trouble(handler: Any, _body: Any) -> bool:
        if len(endpoint.bodies) <= answers:
            return False
        handler.close_connection = True
        handler.connection.close()
        return True

    endpoint.trouble = trouble


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A remote engine that does not wait long before it tries again."""

    def open_(model: str, *_: object) -> RemoteEngine:
        name, _, url = model.partition("@")
        return RemoteEngine(url, name, name=model, retrying=Retrying(attempts=2, first_s=0.01))

    monkeypatch.setattr("advisor.advise.open_engine", open_)


@pytest.mark.usefixtures("hasty")
def test_an_endpoint_that_dies_midway_costs_no_answer_and_scores_none_as_wrong(
    workspace: Workspace, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(ScriptedEngine(knows_only_its_passages)) as endpoint:
        args = ["--eval", str(project / "eval.jsonl"), "--full"]
        args += ["--base-model", f"m@{endpoint.url}"]
        dies_after(endpoint, 70)
        assert main(["advise", "capitals", *args, "--json"]) == 1
        error = capsys.readouterr().err
        assert "run the same command again to go on" in error
        folder = workspace.use_case("capitals")
        assert not folder.verdict_path.exists()
        kept = len((folder.path / "cache" / "answers.jsonl").read_text().splitlines())
        assert kept == 70

        endpoint.trouble = lambda *_: False
        endpoint.bodies.clear()
        verdict = run(capsys, project, "--full", "--base-model", f"m@{endpoint.url}")
        assert len(endpoint.bodies) == 2 * 60 - 70
    assert verdict["route"] == "rag"
    assert {arm["error"] for arm in verdict["arms"].values()} == {0}


@pytest.mark.usefixtures("hasty")
def test_calls_that_fail_once_are_tried_again(
    workspace: Workspace, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused: list[int] = []
    with serving(ScriptedEngine(knows_only_its_passages)) as endpoint:

        def hiccup(handler: Any, _body: Any) -> bool:
            if len(endpoint.bodies) % 9:
                return False
            refused.append(len(endpoint.bodies))
            return send(handler, 503, '{"error": {"message": "busy"}}')

        endpoint.trouble = hiccup
        verdict = run(capsys, project, "--base-model", f"m@{endpoint.url}")
    assert verdict["route"] == "rag"
    retries = report_of(workspace, "capitals", verdict)["retries"]
    assert retries["requests"] == sum(retries["by_arm"].values()) == len(refused) > 0
    assert f"{len(refused)} requests were sent again" in retries["text"]
    assert {arm["error"] for arm in verdict["arms"].values()} == {0}


@pytest.mark.usefixtures("hasty")
def test_an_endpoint_that_refuses_everything_gives_no_verdict(
    workspace: Workspace, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(ScriptedEngine(knows_only_its_passages)) as endpoint:
        endpoint.trouble = lambda handler, _: send(handler, 400, '{"error": {"message": "no such thing"}}')
        verdict = run(capsys, project, "--base-model", f"m@{endpoint.url}")
    assert (verdict["route"], verdict["confidence"]) == ("undecided", 0.0)
    assert {need["what"] for need in verdict["needs"]} == {"arm:closed"}
    failures = report_of(workspace, "capitals", verdict)["failures"]
    assert failures["errors"]["closed"] > 0


@pytest.mark.parametrize(
    ("looks", "says"), [(1, "saved. A gain must show"), (2, "saved. After 2 looks a gain must show")]
)
def test_one_look_is_no_looks(looks: int, says: str) -> None:
    steps = Progress(20, ("closed", "oracle"), {"closed": 10, "oracle": 10}, [{}] * looks)
    assert says in sentence(steps, full=False)


def test_the_run_says_once_how_much_it_asked(
    home: Path, project: Path, base: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    base(knows_only_its_passages)
    assert main(["advise", "capitals", "--eval", str(project / "eval.jsonl"), "--full"]) == 0
    assert " ".join(capsys.readouterr().out.split()).count("Every arm was asked every item") == 1
