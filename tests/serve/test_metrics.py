"""What the server says of itself: metrics, access log, usage, the request log and feedback on it."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from click.testing import CliRunner

from core.errors import DataError
from core.request_log import requests_path, write_eval_set
from core.rows import read_rows
from core.types import Delta, Message, Request
from core.workspace import Workspace
from serve.commands.usage import command as usage_command
from serve.keys import KeyStore
from serve.logs import _Json
from serve.metering import Meter
from serve.services import Options
from serve.state import State
from serve.usage import Prices, UsageBook, Use, usage_rows
from tests.serve.conftest import EchoEngine, Server, declare, wait_until

Serve = Callable[..., Server]


def figures(server: Server, name: str) -> dict[str, float]:
    """Label text -> value of one metric."""
    text = httpx.get(f"{server.url}/metrics").text
    return {found[1]: float(found[2]) for found in re.finditer(rf"^{name}\{{(.*)\}} (\S+)$", text, re.MULTILINE)}


def ask(client: openai.OpenAI, text: str, model: str = "faq", **options: Any) -> Any:
    messages: Any = [{"role": "user", "content": text}]
    return client.chat.completions.create(model=model, messages=messages, **options)


def test_tokens_and_times_are_counted_by_use_case_and_engine(serve: Serve, workspace: Workspace) -> None:
    declare(workspace, "faq")
    server = serve()
    client = server.client()
    whole = ask(client, "a b c").usage
    streamed = [c.usage for c in ask(client, "d e", stream=True, stream_options={"include_usage": True}) if c.usage]
    by = 'arm="-",base_model="echo",engine="echo",use_case="faq"'
    answers = {by: 2.0}
    wait_until(lambda: figures(server, "tunefork_answers_total") == answers)
    tokens = figures(server, "tunefork_tokens_total")
    prompt = 'arm="-",base_model="echo",engine="echo",kind="prompt",use_case="faq"'
    assert tokens[prompt] == whole.prompt_tokens + streamed[0].prompt_tokens
    assert figures(server, "tunefork_time_to_first_token_seconds_count") == answers
    pieces = whole.completion_tokens + streamed[0].completion_tokens
    assert figures(server, "tunefork_inter_token_seconds_count") == {by: pieces - 2.0}
    assert figures(server, "tunefork_requests_total")['route="/v1/chat/completions",status="200"'] == 2


def test_choices_of_one_prompt_read_it_once(serve: Serve, workspace: Workspace) -> None:
    declare(workspace, "faq")
    server = serve()
    usage = ask(server.client(), "a b c", n=3).usage
    prompt = 'arm="-",base_model="echo",engine="echo",kind="prompt",use_case="faq"'
    wait_until(lambda: figures(server, "tunefork_tokens_total").get(prompt) == usage.prompt_tokens)


def test_names_that_clients_make_up_are_no_labels(serve: Serve) -> None:
    server = serve()
    with pytest.raises(openai.NotFoundError):
        ask(server.client(), "x", model="made-up-model")
    httpx.get(f"{server.url}/v1/made-up-path")
    text = httpx.get(f"{server.url}/metrics").text
    assert "made-up" not in text
    assert 'status="404"' in text


def test_access_log_has_one_line_a_request_with_its_id_and_no_key(
    serve: Serve, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    declare(workspace, "faq")
    key, secret = KeyStore(workspace.path).create()
    server = serve()
    with caplog.at_level(logging.INFO, "tunefork.access"):
        ask(server.client(api_key=secret), "hello", extra_headers={"x-request-id": "mine-1"})
        wait_until(lambda: any(r.name == "tunefork.access" for r in caplog.records))
    (record,) = [r for r in caplog.records if r.name == "tunefork.access"]
    line = json.loads(_Json().format(record))
    assert (line["route"], line["status"], line["key"], line["model"]) == ("/v1/chat/completions", 200, key.id, "faq")
    assert line["completion_tokens"] == 2
    assert line["ttft_s"] <= line["duration_s"]
    assert secret not in caplog.text
    assert "hello" not in caplog.text


def test_usage_adds_up_by_key_and_use_case_and_survives_a_restart(
    serve: Serve, workspace: Workspace, home: Path
) -> None:
    declare(workspace, "faq")
    store = KeyStore(workspace.path)
    (one, first), (two, second) = store.create(), store.create()
    server = serve(options=Options(prices=Prices(input_usd_per_1m=1e6)))
    for secret, text in ((first, "a b c"), (first, "d"), (second, "e")):
        ask(server.client(api_key=secret), text)
    state = State(workspace.path)
    try:
        wait_until(lambda: sum(row["requests"] for row in usage_rows(state)) == 3)
        assert {(row["key"], row["use_case"], row["requests"], row["usd"]) for row in usage_rows(state)} == {
            (one.id, "faq", 2, 4.0),
            (two.id, "faq", 1, 1.0),
        }
        book = UsageBook(state)
        assert book.spent(one.id) == 4.0
        book.add(Use(one.id, "faq", "echo", 5, 5))
        book.close()
    finally:
        state.close()
    printed = CliRunner().invoke(usage_command, ["--json"], catch_exceptions=False).stdout
    assert sum(row["requests"] for row in json.loads(printed)) == 4
    assert "faq" in CliRunner().invoke(usage_command, [], catch_exceptions=False).stdout


def test_nothing_that_is_asked_is_kept_unless_told(serve: Serve, workspace: Workspace) -> None:
    declare(workspace, "faq")
    server = serve()
    ask(server.client(), "private")
    server.app.state.services.log.close()
    assert not requests_path(workspace.use_case("faq")).exists()


def test_feedback_becomes_the_next_eval_set(serve: Serve, workspace: Workspace) -> None:
    declare(workspace, "faq")
    server = serve(options=Options(log_requests=True))
    client = server.client()

    def said(text: str, **feedback: Any) -> httpx.Response:
        answer = ask(client, text)
        body = {"request_id": answer._request_id, **feedback}
        return httpx.post(f"{server.url}/v1/use_cases/faq/feedback", json=body)

    assert said("good one", rating="good").json()["stored"] is True
    assert said("wrong one", rating="bad", expected="the right answer").status_code == 200
    assert said("bad one", rating="bad", comment="no").status_code == 200
    assert said("no word").json()["error"]["param"] == "rating"
    ask(client, "nobody judged this")
    rows = read_rows(write_eval_set(workspace.use_case("faq")), "evaluation")
    assert {(row.input, row.output) for row in rows} == {
        ("good one", "echo: good one"),
        ("wrong one", "the right answer"),
    }


def test_last_word_on_an_answer_counts(serve: Serve, workspace: Workspace) -> None:
    declare(workspace, "faq")
    server = serve(options=Options(log_requests=True))
    answer = ask(server.client(), "q")
    for rating in ("good", "bad"):
        body = {"request_id": answer._request_id, "rating": rating}
        httpx.post(f"{server.url}/v1/use_cases/faq/feedback", json=body)
    with pytest.raises(DataError, match="--log-requests"):
        write_eval_set(workspace.use_case("faq"))


def test_feedback_on_a_request_that_was_not_logged_is_404(serve: Serve, workspace: Workspace) -> None:
    declare(workspace, "faq")
    answer = httpx.post(
        f"{serve().url}/v1/use_cases/faq/feedback", json={"request_id": "req_unknown", "rating": "good"}
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "request_id")


def test_retrieval_is_timed_by_use_case(serve: Serve, workspace: Workspace) -> None:
    declare(workspace, "faq")
    server = serve()
    services = server.app.state.services
    from serve.asked import Asked
    from serve.metering import Metering

    meter = Meter(services.metrics, asked=Asked(use_case="faq", base_model="m", engine="e", retrieval_s=0.25))
    Metering(server.app, services=services)._record(meter, {"type": "http", "method": "POST"}, 200)
    assert figures(server, "tunefork_retrieval_seconds_sum") == {'use_case="faq"': 0.25}


def test_stream_that_is_broken_off_is_logged_with_what_it_came_to(
    serve: Serve, workspace: Workspace, engines: dict[str, EchoEngine]
) -> None:
    engines["echo"] = EchoEngine("echo", answer=lambda _: "word " * 400, delay_s=0.02)
    declare(workspace, "faq")
    server = serve()
    body = {"model": "faq", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body) as stream:
        next(stream.iter_lines())
    by = 'arm="-",base_model="echo",engine="echo",use_case="faq"'
    wait_until(lambda: figures(server, "tunefork_answers_total") == {by: 1.0})
    read = figures(server, "tunefork_tokens_total")
    assert read['arm="-",base_model="echo",engine="echo",kind="completion",use_case="faq"'] >= 1


def test_answer_that_was_broken_off_costs_what_was_written() -> None:
    meter = Meter()
    meter.wanted[0] = Request((Message("user", "x" * 40),))
    for word in ("a ", "b ", "c "):
        meter.seen(0, Delta(word))
    meter.close()
    meter.close()
    assert (meter.prompt_tokens, meter.completion_tokens) == (10, 3)
