"""/v1/use_cases: what is there, its verdict and report, and measuring it anew in a child process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from core.cli import main
from core.files import append_jsonl, write_json, write_text
from core.request_log import feedback_path, requests_path
from core.workspace import Workspace
from serve.keys import KeyStore
from serve.use_cases import AdviseIn
from tests.serve.conftest import Server, declare, wait_until

Serve = Callable[..., Server]


def judged(workspace: Workspace, name: str) -> Path:
    """A use case with a verdict and a report that name files of this machine."""
    declare(workspace, name, route="prompt")
    folder = workspace.use_case(name)
    run = folder.path / "runs" / "20260101T000000-advise"
    secret = f"{workspace.path}/secret/eval.jsonl"
    write_json(run / "report.json", {"settings": {"eval": secret}, "verdict": {"reasons": ["either/or"]}})
    write_text(run / "report.html", f"<html><body>measured on {secret}</body></html>")
    write_json(folder.verdict_path, {"route": "prompt", "confidence": 0.9, "run": run.name})
    return run


def test_use_cases_are_listed_with_their_verdict_and_names(serve: Serve, workspace: Workspace) -> None:
    judged(workspace, "faq")
    declare(workspace, "new")
    server = serve()
    listed = httpx.get(f"{server.url}/v1/use_cases").json()
    assert [(one["id"], one["verdict"], one["served"]) for one in listed["data"]] == [
        ("faq", "prompt", "prompt"),
        ("new", None, "base"),
    ]
    names = {model.id for model in server.client().models.list()}
    assert set(listed["data"][0]["models"]) <= names
    assert httpx.get(f"{server.url}/v1/use_cases/faq").json() == listed["data"][0]
    near = httpx.get(f"{server.url}/v1/use_cases/fag")
    assert (near.status_code, near.json()["error"]["param"]) == (404, "name")
    assert "did you mean faq" in near.json()["error"]["message"]


def test_report_names_no_folder_of_this_machine(serve: Serve, workspace: Workspace) -> None:
    judged(workspace, "faq")
    server = serve()
    url = f"{server.url}/v1/use_cases/faq"
    assert httpx.get(f"{url}/verdict").json()["confidence"] == 0.9
    document = httpx.get(f"{url}/report").json()
    assert document == {"settings": {"eval": "eval.jsonl"}, "verdict": {"reasons": ["either/or"]}}
    page = httpx.get(f"{url}/report", params={"format": "html"})
    assert page.headers["content-type"].startswith("text/html")
    assert "script" not in page.headers["content-security-policy"]
    assert "measured on eval.jsonl" in page.text
    assert str(workspace.path) not in page.text
    assert httpx.get(f"{url}/report", params={"format": "pdf"}).json()["error"]["param"] == "format"


def test_without_a_verdict_there_is_none_to_show(serve: Serve, workspace: Workspace) -> None:
    declare(workspace, "faq")
    server = serve()
    for what in ("verdict", "report"):
        answer = httpx.get(f"{server.url}/v1/use_cases/faq/{what}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_key_of_other_use_cases_sees_nothing_and_reports_need_admin(serve: Serve, workspace: Workspace) -> None:
    judged(workspace, "faq")
    judged(workspace, "other")
    _, secret = KeyStore(workspace.path).create(use_cases=["faq"])
    url, headers = f"{serve().url}/v1/use_cases", {"Authorization": f"Bearer {secret}"}
    assert [one["id"] for one in httpx.get(url, headers=headers).json()["data"]] == ["faq"]
    assert httpx.get(f"{url}/other", headers=headers).status_code == 404
    assert httpx.get(f"{url}/faq/report", headers=headers).status_code == 403
    assert httpx.post(f"{url}/faq/advise", headers=headers, json={}).status_code == 403


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"arms": ["closed; rm"]}, "arms[0]"),
        ({"delta": 2}, "delta"),
        ({"engine": "x"}, "engine"),
        ({"seed": -1}, "seed"),
    ],
)
def test_advise_takes_only_what_it_knows(serve: Serve, workspace: Workspace, body: dict[str, Any], param: str) -> None:
    declare(workspace, "faq")
    answer = httpx.post(f"{serve().url}/v1/use_cases/faq/advise", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_advise_hands_its_body_to_the_command() -> None:
    body = AdviseIn(from_log=True, arms=["closed", "few_shot:8"], delta=0.1)
    assert body.arguments() == ["--from-log", "--arms", "closed,few_shot:8", "--delta", "0.1"]


def finished(url: str, job: str) -> dict[str, Any]:
    def over() -> bool:
        return httpx.get(f"{url}/{job}").json()["status"] not in ("queued", "running")

    wait_until(over, timeout_s=400)
    found: dict[str, Any] = httpx.get(f"{url}/{job}").json()
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("starter_folder")
def test_advise_measures_in_a_child_and_its_verdict_goes_in_force(
    serve: Serve, workspace: Workspace, tmp_path: Path
) -> None:
    rows = tmp_path / "eval.jsonl"
    rows.write_text("".join(f'{{"input": "Is {n} even?", "output": "yes"}}\n' for n in range(3)), encoding="utf-8")
    workspace.declare("faq", {"eval": rows, "max_tokens": 2})
    url = f"{serve().url}/v1/use_cases/faq/advise"
    job = httpx.post(url, json={"arms": ["closed"]}).json()
    again = httpx.post(url, json={})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "already_running")
    ended = finished(url, job["id"])
    assert (ended["status"], ended["error"]) == ("succeeded", None)
    assert ended["verdict"]["arms"]["closed"]["n"] == 3
    assert httpx.get(url.removesuffix("advise") + "verdict").json()["run"] == ended["verdict"]["run"]
    assert [one["id"] for one in httpx.get(url).json()["data"]] == [job["id"]]


@pytest.mark.slow
def test_advise_without_rows_fails_with_its_reason(serve: Serve, workspace: Workspace) -> None:
    declare(workspace, "faq")
    url = f"{serve().url}/v1/use_cases/faq/advise"
    ended = finished(url, httpx.post(url, json={}).json()["id"])
    assert ended["status"] == "failed"
    assert "--eval" in ended["error"]["message"]
    assert str(workspace.path) not in ended["error"]["message"]


def test_from_log_makes_the_feedback_the_eval_set(
    home: Path, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = workspace.declare("faq", {})
    assert main(["advise", "faq", "--from-log", "--dry-run"]) == 2
    assert "no feedback that gives a right answer yet" in capsys.readouterr().err
    for n in range(3):
        asked = {"request_id": f"r{n}", "messages": [{"role": "user", "content": f"q{n}"}], "answer": "a"}
        append_jsonl(requests_path(folder), asked)
        append_jsonl(feedback_path(folder), {"request_id": f"r{n}", "rating": "good" if n else "bad"})
    assert main(["advise", "faq", "--from-log", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"]["eval"] == 2
    assert folder.settings().eval is None
    assert len((folder.path / "log" / "eval.jsonl").read_text().splitlines()) == 2
    assert main(["advise", "faq", "--from-log", "--eval", "x.jsonl"]) == 2
