"""The server over an endpoint of somebody else: what its clients see is what they see over an engine of our own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import httpx
import openai
import pytest

from core.engines.remote import RemoteEngine
from core.engines.scripted import ScriptedEngine
from core.types import Request
from core.workspace import Workspace
from serve.catalog import Catalog
from tests.core.engines.endpoint import Endpoint, begin_stream, event, serving
from tests.serve.conftest import Server, declare, running, wait_until

ANSWER = 'Grüße, 世界 \U0001f30d "quoted" \\ and\na line\u2028more.'
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'
WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def _script(request: Request) -> str:
    if request.prompt is not None:
        return ANSWER
    if request.tools:
        return CALL
    return "word " * 3000 if request.messages[-1].content == "long" else ANSWER


@pytest.fixture
def scripted() -> ScriptedEngine:
    return ScriptedEngine(_script, name="far")


@pytest.fixture
def endpoint(scripted: ScriptedEngine) -> Iterator[Endpoint]:
    with serving(scripted) as served:
        yield served


@pytest.fixture
def server(workspace: Workspace, endpoint: Endpoint) -> Iterator[Server]:
    declare(workspace, "faq", base_model="far", instruction="Be brief.")

    def open_base(model: str) -> RemoteEngine:
        return RemoteEngine(endpoint.url, model, concurrency=64)

    with running(Catalog(workspace, open_base)) as made:
        yield made


def _stream(server: Server, **fields: Any) -> list[openai.types.chat.ChatCompletionChunk]:
    messages: Any = [{"role": "user", "content": fields.pop("content", "hello")}]
    options = {"model": "far", "messages": messages, "stream": True, **fields}
    return list(server.client().chat.completions.create(**options))


def _texts(chunks: list[openai.types.chat.ChatCompletionChunk], choice: int = 0) -> str:
    return "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices if c.index == choice)


@pytest.mark.parametrize("model", ["far", "faq"])
def test_every_character_comes_through_a_stream(server: Server, model: str) -> None:
    chunks = _stream(server, model=model, stream_options={"include_usage": True})
    assert _texts(chunks) == ANSWER
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert chunks[0].choices[0].delta.role == "assistant"
    *others, last = chunks
    assert last.choices == [] and last.usage is not None and last.usage.completion_tokens > 1
    assert all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in others)
    assert len({(c.id, c.created, c.model, c.system_fingerprint) for c in chunks}) == 1


def test_without_usage_no_chunk_speaks_of_it(server: Server) -> None:
    chunks = _stream(server)
    assert _texts(chunks) == ANSWER
    assert not any("usage" in chunk.model_fields_set for chunk in chunks)


def test_a_stream_of_the_older_endpoint_is_the_whole_answer(server: Server) -> None:
    body = {"model": "far", "prompt": "hello", "max_tokens": 100, "stream": True}
    response = httpx.post(f"{server.url}/v1/completions", json=body, timeout=300, trust_env=False)
    lines = [line.removeprefix("data: ") for line in response.content.decode().split("\n") if line]
    choices = [json.loads(line)["choices"][0] for line in lines[:-1]]
    assert "".join(choice["text"] for choice in choices) == ANSWER
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["stop"]
    assert lines[-1] == "[DONE]"


def test_choices_are_told_apart(server: Server) -> None:
    chunks = _stream(server, n=3)
    assert [_texts(chunks, choice) for choice in range(3)] == [ANSWER] * 3
    assert sorted(c.choices[0].index for c in chunks if c.choices[0].finish_reason) == [0, 1, 2]


def test_log_probabilities_come_with_their_tokens(server: Server) -> None:
    chunks = _stream(server, logprobs=True, top_logprobs=1)
    told = [lp for chunk in chunks if chunk.choices[0].logprobs for lp in chunk.choices[0].logprobs.content or ()]
    assert "".join(lp.token for lp in told) == ANSWER == _texts(chunks)


def test_calls_come_through_a_stream(server: Server) -> None:
    chunks = _stream(server, tools=[WEATHER])
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert calls[0].function is not None and calls[0].function.name == "weather"
    assert json.loads("".join(call.function.arguments or "" for call in calls if call.function)) == {"city": "Rome"}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_a_client_that_leaves_ends_the_work_at_the_endpoint(server: Server, scripted: ScriptedEngine) -> None:
    scripted._delay_s = 0.02
    body = {"model": "far", "messages": [{"role": "user", "content": "long"}], "max_tokens": 3000, "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=300, trust_env=False) as response:
        next(response.iter_lines())
        assert scripted.running == 1
    wait_until(lambda: scripted.running == 0)
    wait_until(lambda: server.app.state.workers.busy == 0)


def test_a_stream_that_breaks_off_says_so(server: Server, endpoint: Endpoint) -> None:
    def trouble(handler: BaseHTTPRequestHandler, _body: dict[str, Any]) -> bool:
        begin_stream(handler)
        event(handler, {"choices": [{"delta": {"content": "Half an"}}]})
        return True

    endpoint.trouble = trouble
    body = {"model": "far", "messages": [{"role": "user", "content": "hello"}], "stream": True}
    response = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=300, trust_env=False)
    *_, last = [line for line in response.text.splitlines() if line]
    assert "Half an" in response.text
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "the model 'far' failed on this request"
    assert "[DONE]" not in response.text


def test_pieces_and_tokens_are_counted(server: Server) -> None:
    chunks = _stream(server)
    pieces = sum(bool(chunk.choices[0].delta.content) for chunk in chunks)
    metrics = f"{server.url}/metrics"
    wait_until(lambda: "tunefork_answers_total{" in httpx.get(metrics, trust_env=False).text)
    text = httpx.get(metrics, trust_env=False).text
    assert re.findall(r"^tunefork_time_to_first_token_seconds_count{.*} (.*)", text, re.MULTILINE) == ["1.0"]
    assert re.findall(r"^tunefork_inter_token_seconds_count{.*} (.*)", text, re.MULTILINE) == [f"{pieces - 1}.0"]
