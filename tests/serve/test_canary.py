"""A share of a use case's requests goes to another remedy: live, sticky by user, seen everywhere, ended by one command."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.canary import Canary, end_canary, load_canary, start_canary, tallies
from core.cli import main
from core.request_log import requests_path
from core.workspace import UseCaseFolder, Workspace
from serve.catalog import Catalog
from serve.compose import plan
from serve.services import Options
from tests.serve.conftest import EchoEngine, Server, declare, wait_until
from tests.serve.test_metrics import figures

Serve = Callable[..., Server]


def canary(share: float, salt: str = "s") -> Canary:
    return Canary(arm="base", share=share, salt=salt, started="2026-01-01T00:00:00+00:00")


@pytest.fixture
def folder(workspace: Workspace, engines: dict[str, EchoEngine]) -> UseCaseFolder:
    """A use case with two remedies: v0001 says "old", v0002, in force, says "new"."""
    engines["echo"] = EchoEngine("echo", answer=lambda r: r.messages[0].content)
    declare(workspace, "faq", instruction="old")
    declare(workspace, "faq", instruction="new")
    return workspace.use_case("faq")


def ask(server: Server, **fields: Any) -> httpx.Response:
    body = {"model": "faq", "messages": [{"role": "user", "content": "hello"}], **fields}
    return httpx.post(f"{server.url}/v1/chat/completions", json=body)


def said(answer: httpx.Response) -> str:
    return str(answer.json()["choices"][0]["message"]["content"])


def users_of(share: float, folder: UseCaseFolder) -> tuple[str, str]:
    """A user whom the canary takes, and one whom it does not."""
    now = load_canary(folder)
    assert now is not None
    names = [f"u{n}" for n in range(100)]
    took = [name for name in names if now.takes(f"user {name}")]
    assert 0 < len(took) < 100
    return took[0], next(name for name in names if name not in took)


def test_share_of_tickets_is_the_canarys() -> None:
    for share in (0.01, 0.1, 0.5):
        taken = sum(canary(share).takes(f"request {n}") for n in range(20_000))
        assert abs(taken / 20_000 - share) < 0.02
    assert all(canary(1).takes(str(n)) for n in range(100))


@given(ticket=st.text(), low=st.floats(0.001, 1), high=st.floats(0.001, 1), salt=st.text(max_size=8))
def test_a_larger_share_keeps_whom_a_smaller_one_had(ticket: str, low: float, high: float, salt: str) -> None:
    low, high = sorted((low, high))
    assert canary(low, salt).takes(ticket) <= canary(high, salt).takes(ticket)


def test_canary_starts_moves_and_ends_live(serve: Serve, folder: UseCaseFolder) -> None:
    server = serve()
    assert "tunefork" not in ask(server).json()
    assert main(["canary", "faq", "--arm", "v0001", "--share", "100"]) == 0
    assert (said(ask(server)), ask(server).json()["tunefork"]) == ("old", {"arm": "v0001"})
    assert main(["canary", "faq", "--share", "50"]) == 0
    took, other = users_of(0.5, folder)
    for _ in range(3):
        assert said(ask(server, user=took)) == said(ask(server, safety_identifier=took, user=other)) == "old"
        assert said(ask(server, user=other)) == "new"
    assert ask(server, user=other).json()["tunefork"] == {"arm": "v0002"}
    assert main(["canary", "faq", "--share", "0"]) == 0
    assert said(ask(server, user=took)) == "new"
    assert "tunefork" not in ask(server).json()


def test_requests_without_a_user_are_drawn_by_their_id(serve: Serve, folder: UseCaseFolder) -> None:
    server = serve()
    now = start_canary(folder, "v0001", 0.3)
    for number in range(12):
        body = {"model": "faq", "messages": [{"role": "user", "content": "hello"}]}
        headers = {"x-request-id": f"r{number}"}
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, headers=headers)
        assert said(answer) == ("old" if now.takes(f"request r{number}") else "new")


def test_choices_and_streams_of_one_request_have_one_arm(serve: Serve, folder: UseCaseFolder) -> None:
    server = serve()
    start_canary(folder, "v0001", 0.5)
    took, other = users_of(0.5, folder)
    for user, arm, word in ((took, "v0001", "old"), (other, "v0002", "new")):
        choices = ask(server, n=4, user=user).json()["choices"]
        assert {choice["message"]["content"] for choice in choices} == {word}
        chunks = ask(server, stream=True, user=user).text.split("\n\n")
        arms = {json.loads(c[6:])["tunefork"]["arm"] for c in chunks if c.startswith("data: {")}
        assert arms == {arm}
        legacy = {"model": "faq", "prompt": "hello", "user": user}
        assert httpx.post(f"{server.url}/v1/completions", json=legacy).json()["tunefork"] == {"arm": arm}
        response = {"model": "faq", "input": "hello", "user": user}
        assert httpx.post(f"{server.url}/v1/responses", json=response).json()["tunefork"] == {"arm": arm}


def test_variants_can_be_asked_for_and_are_no_part_of_it(serve: Serve, folder: UseCaseFolder) -> None:
    server = serve()
    start_canary(folder, "v0001", 1.0)
    assert said(ask(server, model="faq:canary")) == "old"
    assert said(ask(server, model="faq:base")) == "new"
    assert "tunefork" not in ask(server, model="faq:canary").json()
    case = httpx.get(f"{server.url}/v1/use_cases/faq").json()
    assert case["canary"] == {"arm": "v0001", "share": 1.0}
    assert "faq:canary" in case["models"]
    end_canary(folder)
    assert ask(server, model="faq:canary").status_code == 404


def test_metrics_and_feedback_compare_the_arms(
    serve: Serve, folder: UseCaseFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(options=Options(log_requests=True))
    start_canary(folder, "v0001", 0.5)
    took, other = users_of(0.5, folder)
    for user, rating in ((took, "good"), (took, "good"), (other, "bad")):
        request_id = ask(server, user=user).headers["x-request-id"]
        body = {"request_id": request_id, "rating": rating}
        assert httpx.post(f"{server.url}/v1/use_cases/faq/feedback", json=body).status_code == 200
    ask(server, user=other)
    wait_until(lambda: requests_path(folder).read_text(encoding="utf-8").count("\n") == 4)
    found = tallies(folder, "")
    assert (found["v0001"].requests, found["v0001"].good, found["v0002"].requests, found["v0002"].bad) == (2, 2, 2, 1)
    by = figures(server, "tunefork_answers_total")
    assert sorted(value for key, value in by.items() if "v0001" in key or "v0002" in key) == [2, 2]
    assert figures(server, "tunefork_feedback_total")['arm="v0001",rating="good",use_case="faq"'] == 2
    assert main(["canary", "faq", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [(row["arm"], row["judged"]) for row in document["arms"]] == [("v0002", 1), ("v0001", 2)]
    assert document["difference"]["value"] == 1.0
    assert main(["canary", "faq"]) == 0
    assert "2 of 2 good" in capsys.readouterr().out
    assert main(["show", "faq"]) == 0
    assert "50 % of the requests go to v0001" in capsys.readouterr().out


def test_promoted_canary_is_in_force_for_all(serve: Serve, folder: UseCaseFolder) -> None:
    server = serve()
    start_canary(folder, "v0001", 0.1)
    assert main(["canary", "faq", "--promote"]) == 0
    assert load_canary(folder) is None
    assert {said(ask(server)) for _ in range(3)} == {"old"}


def test_promoted_variant_is_served_as_it_was_tried(workspace: Workspace) -> None:
    from serve.served import present_remedy

    declare(workspace, "faq", route="few-shot", instruction="i", demonstrations=(("a", "b"),))
    folder = workspace.use_case("faq")
    tried = plan(present_remedy(folder), "base", folder.index, folder.adapters)
    start_canary(folder, "base", 0.1)
    assert main(["canary", "faq", "--promote"]) == 0
    assert plan(present_remedy(folder), "", folder.index, folder.adapters) == tried
    assert main(["revert", "faq"]) == 0
    assert present_remedy(folder).route == "few-shot"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--share", "10"], "no canary of 'faq' is under way"),
        (["--arm", "v0001"], "--share"),
        (["--arm", "v0009", "--share", "10"], "v0009"),
        (["--arm", "rag", "--share", "10"], "rag"),
        (["--promote"], "nothing to promote"),
        (["--promote", "--share", "5"], "--promote"),
        (["--share", "101"], "101"),
    ],
)
def test_what_cannot_be_tried_is_said(
    folder: UseCaseFolder, arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["canary", "faq", *arguments]) == 2
    assert text in capsys.readouterr().err
    assert not folder.canary_path.exists()


def test_damaged_canary_leaves_the_use_case_alone(serve: Serve, folder: UseCaseFolder) -> None:
    server = serve()
    folder.canary_path.write_text('{"arm": 7}', encoding="utf-8")
    assert said(ask(server)) == "new"
    assert httpx.get(f"{server.url}/v1/models").status_code == 200
    assert httpx.get(f"{server.url}/v1/use_cases/faq").json()["canary"] is None
    assert main(["canary", "faq"]) == 1
    assert main(["canary", "faq", "--share", "0"]) == 0
    assert not folder.canary_path.exists()


def test_answers_go_on_while_a_canary_comes_and_goes(workspace: Workspace, folder: UseCaseFolder) -> None:
    """No lease fails or mixes arms, whatever the moment at which the canary changes."""
    catalog = Catalog(workspace, lambda model: EchoEngine(model))

    def lease(number: int) -> tuple[str, str]:
        with catalog.lease("faq", f"request {number}") as served:
            return served.arm, replace(served).fingerprint

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(lease, number) for number in range(200)]
        for round_ in range(10):
            start_canary(folder, "v0001" if round_ % 2 else "base", 0.5)
            end_canary(folder)
        arms = {one.result()[0] for one in asked}
    assert arms <= {"", "v0001", "v0002", "base"}
    catalog.close()
