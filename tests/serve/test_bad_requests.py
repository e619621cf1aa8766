"""Whatever is wrong comes back in OpenAI's envelope, with the field and a code, and nothing of this machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from core.engines.adapters import AdapterError
from core.errors import ContextTooLong, EngineError, EngineTimeout, EngineUnavailable, NotHonoured
from core.workspace import Workspace
from tests.serve.conftest import EchoEngine, Server, declare

ASK: Any = [{"role": "user", "content": "hi"}]
F: Any = {"type": "function", "function": {"name": "f"}}
ODD: Any = {"type": "function", "function": {"name": "odd", "parameters": {"type": "object", "not": {}}}}
PARAMETERS = "tools[0].function.parameters"
Serve = Callable[..., Server]


def allowed(name: str) -> Any:
    tools = [{"type": "function", "function": {"name": name}}]
    return {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": tools}}


@pytest.fixture
def server(serve: Serve, workspace: Workspace) -> Server:
    declare(workspace, "faq")
    return serve(max_body_bytes=100_000)


def post(server: Server, body: Any, **options: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, **options)


def error_of(response: httpx.Response) -> dict[str, Any]:
    document = response.json()
    assert set(document) == {"error"}
    assert set(document["error"]) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"]
    return dict(document["error"])


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"tools": []}, "tools", "invalid_value"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type", "unsupported_value"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "invalid_value"),
        ({"tools": [F, F]}, "tools", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tools": [F], "tool_choice": "maybe"}, "tool_choice", "unsupported_value"),
        ({"tools": [F], "tool_choice": {"type": "custom"}}, "tool_choice", "unsupported_value"),
        (
            {"tools": [F], "tool_choice": {"type": "allowed_tools"}},
            "tool_choice.allowed_tools",
            "missing_required_parameter",
        ),
        ({"tools": [F], "tool_choice": allowed("g")}, "tool_choice", "invalid_value"),
        ({"tool_choice": allowed("f")}, "tool_choice", "invalid_value"),
        ({"tools": [{**F, "function": {"name": "f", "parameters": {"type": "string"}}}]}, PARAMETERS, "invalid_value"),
        (
            {"tools": [F], "tool_choice": {"type": "function", "function": {"name": "g"}}},
            "tool_choice",
            "invalid_value",
        ),
        ({"tools": [ODD], "tool_choice": "required"}, "tools[0].function.parameters", "unsupported_value"),
        (
            {"tools": [{**ODD, "function": {**ODD["function"], "strict": True}}]},
            "tools[0].function.parameters",
            "unsupported_value",
        ),
        ({"parallel_tool_calls": False}, "parallel_tool_calls", "invalid_value"),
        (
            {"tools": [F], "tool_choice": "required", "response_format": {"type": "json_object"}},
            "response_format",
            "invalid_value",
        ),
        ({"functions": []}, "functions", "unsupported_parameter"),
        ({"reasoning_effort": "low"}, "reasoning_effort", "unsupported_parameter"),
        ({"logprobs": 1}, "logprobs", "invalid_type"),
        ({"top_logprobs": 3}, "top_logprobs", "invalid_value"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"frequency_penalty": 2.5}, "frequency_penalty", "invalid_value"),
        ({"presence_penalty": -3}, "presence_penalty", "invalid_value"),
        ({"logit_bias": {"word": -100}}, "logit_bias.word", "invalid_value"),
        ({"logit_bias": {"5": -101}}, "logit_bias.5", "invalid_value"),
        ({"modalities": ["audio"]}, "modalities[0]", "unsupported_value"),
        ({"response_format": {"type": "yaml"}}, "response_format.type", "unsupported_value"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "invalid_value"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}},
            "response_format.json_schema.schema",
            "unsupported_value",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"$ref": "http://127.0.0.1:9/s"}},
                }
            },
            "response_format.json_schema.schema",
            "unsupported_value",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": 3}}},
            "response_format.json_schema.schema",
            "invalid_type",
        ),
        ({"service_tier": "flex"}, "service_tier", "unsupported_value"),
        ({"store": True}, "store", "unsupported_value"),
        ({"banana": 1}, "banana", "unknown_parameter"),
        ({"\ud800": 1}, None, "invalid_body"),
        ({"temperature": 2.5}, "temperature", "invalid_value"),
        ({"temperature": -0.1}, "temperature", "invalid_value"),
        ({"temperature": "warm"}, "temperature", "invalid_type"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 17}, "n", "invalid_value"),
        ({"n": True}, "n", "invalid_type"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 1.5}, "max_tokens", "invalid_type"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens", "invalid_value"),
        ({"seed": 2**63}, "seed", "invalid_value"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "invalid_value"),
        ({"stop": ""}, "stop[0]", "invalid_value"),
        ({"stop": [1]}, "stop[0]", "invalid_type"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unknown_parameter"),
        ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": "hi"}, "messages", "invalid_type"),
        ({"messages": ["hi"]}, "messages[0]", "invalid_value"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0]", "unsupported_value"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "missing_required_parameter"),
        (
            {"messages": [*ASK, {"role": "tool", "content": "x", "tool_call_id": "c"}]},
            "messages[1].tool_call_id",
            "invalid_value",
        ),
        ({"messages": [*ASK, {"role": "assistant"}]}, "messages[1]", "missing_required_parameter"),
        (
            {"messages": [{"role": "user", "content": [{"type": "refusal", "refusal": "no"}]}]},
            "messages[0].content",
            "unsupported_value",
        ),
        ({"messages": [{"content": "x"}]}, "messages[0]", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_type"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "invalid_value"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content", "invalid_value"),
        ({"messages": [{"role": "user", "content": "x", "x": 1}]}, "messages[0].x", "unknown_parameter"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]},
            "messages[0].content",
            "unsupported_value",
        ),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages", "invalid_value"),
        ({"model": 3}, "model", "invalid_type"),
        ({"model": ""}, "model", "invalid_value"),
    ],
)
def test_field_that_cannot_be_honoured_is_refused(
    server: Server, fields: dict[str, Any], param: str | None, code: str
) -> None:
    content = json.dumps({"model": "faq", "messages": ASK, **fields})
    response = httpx.post(
        f"{server.url}/v1/chat/completions", content=content, headers={"content-type": "application/json"}
    )
    error = error_of(response)
    assert (response.status_code, error["param"], error["code"]) == (400, param, code), error
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_missing_field_is_named(server: Server, missing: str) -> None:
    body = {"model": "faq", "messages": ASK}
    del body[missing]
    response = post(server, body)
    assert response.status_code == 400
    assert (error_of(response)["param"], error_of(response)["code"]) == (missing, "missing_required_parameter")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"{", "invalid_json"),
        (b"", "missing_required_parameter"),
        (b"[1]", "invalid_body"),
        (b'{"model": "\xff"}', "invalid_body"),
        (b'{"temperature": NaN, "model": "faq", "messages": []}', "invalid_value"),
        (b"[" * 50_000, "invalid_body"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "invalid_body"),
    ],
)
def test_garbled_body_is_a_400(server: Server, content: bytes, code: str) -> None:
    url, headers = f"{server.url}/v1/chat/completions", {"content-type": "application/json"}
    response = httpx.post(url, content=content, headers=headers)
    assert response.status_code == 400
    assert error_of(response)["code"] in (code, "invalid_body")


def test_other_content_type_is_a_400_that_says_so(server: Server) -> None:
    response = httpx.post(f"{server.url}/v1/chat/completions", data={"model": "faq"})
    assert response.status_code == 400
    assert "application/json" in error_of(response)["message"]


@pytest.mark.parametrize("announced", [True, False])
def test_large_body_is_a_413(server: Server, announced: bool) -> None:
    content = json.dumps({"model": "faq", "messages": [{"role": "user", "content": "x" * 200_000}]}).encode()
    sent: Any = content if announced else iter([content[:50_000], content[50_000:]])
    headers = {"content-type": "application/json"}
    response = httpx.post(f"{server.url}/v1/chat/completions", content=sent, headers=headers)
    assert response.status_code == 413
    assert error_of(response)["code"] == "body_too_large"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("chat/completions", {"messages": ASK}, "messages"),
        ("completions", {"prompt": "hi"}, "prompt"),
        ("responses", {"input": "hi"}, "input"),
    ],
)
@pytest.mark.parametrize(
    ("failure", "code"),
    [(ContextTooLong(5000, 4096), "context_length_exceeded"), (NotHonoured("messages", "no"), "unsupported_value")],
)
def test_field_that_is_too_long_or_not_honoured_has_the_endpoints_name(
    serve: Serve,
    workspace: Workspace,
    engines: dict[str, EchoEngine],
    failure: Any,
    code: str,
    path: str,
    body: Any,
    param: str,
) -> None:
    declare(workspace, "faq")
    engines["echo"] = EchoEngine(error=failure)
    answer = httpx.post(f"{serve().url}/v1/{path}", json={"model": "faq", **body})
    error = error_of(answer)
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code)


def test_unknown_model_is_a_404_with_near_names(server: Server) -> None:
    with pytest.raises(openai.NotFoundError, match="faq") as caught:
        server.client().chat.completions.create(model="faqq", messages=ASK)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError) as caught:
        server.client().models.retrieve("faqq")
    assert caught.value.code == "model_not_found"


def test_unknown_route_and_method(server: Server) -> None:
    missing = httpx.get(f"{server.url}/v1/nothing")
    assert (missing.status_code, error_of(missing)["code"]) == (404, "unknown_url")
    wrong = httpx.put(f"{server.url}/v1/chat/completions")
    assert (wrong.status_code, error_of(wrong)["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (ContextTooLong(5000, 4096), 400, "context_length_exceeded"),
        (EngineUnavailable("http://10.0.0.1 /secret/path"), 503, "engine_unavailable"),
        (EngineTimeout("/secret/path"), 504, "engine_timeout"),
        (EngineError("/secret/path"), 502, "engine_error"),
        (AdapterError("/secret/path"), 503, "artifact_unusable"),
        (ZeroDivisionError("/secret/path"), 500, "internal_error"),
    ],
)
def test_engine_failure_before_the_first_piece_is_an_http_error(
    serve: Serve,
    workspace: Workspace,
    engines: dict[str, EchoEngine],
    failure: Any,
    status: int,
    code: str,
    stream: bool,
) -> None:
    declare(workspace, "faq")
    engines["echo"] = EchoEngine(error=failure)
    response = post(serve(), {"model": "faq", "messages": ASK, "stream": stream})
    assert (response.status_code, error_of(response)["code"]) == (status, code)
    assert "secret" not in response.text
    assert "Traceback" not in response.text


def test_engine_failure_in_mid_stream_is_an_error_event_without_done(
    serve: Serve, workspace: Workspace, engines: dict[str, EchoEngine]
) -> None:
    declare(workspace, "faq")
    engines["echo"] = EchoEngine(error=EngineError("/secret/path"), error_after=1)
    server = serve()
    response = post(server, {"model": "faq", "messages": ASK, "stream": True})
    assert response.status_code == 200
    last = response.text.strip().split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_error"
    assert "secret" not in response.text
    with pytest.raises(openai.APIError, match="failed on this request"):
        list(server.client().chat.completions.create(model="faq", messages=ASK, stream=True))


def test_damaged_remedy_is_a_503_and_leaves_the_others_alone(serve: Serve, workspace: Workspace) -> None:
    declare(workspace, "faq")
    declare(workspace, "bad")
    workspace.use_case("bad").remedy_path.write_text("{", encoding="utf-8")
    server = serve()
    response = post(server, {"model": "bad", "messages": ASK})
    assert (response.status_code, error_of(response)["code"]) == (503, "artifact_unusable")
    assert str(workspace.path) not in response.text
    assert server.client().chat.completions.create(model="faq", messages=ASK).choices


def test_request_id_is_the_clients_when_sane(server: Server) -> None:
    assert httpx.get(f"{server.url}/health", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert httpx.get(f"{server.url}/health", headers={"x-request-id": "a b"}).headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("path", "body", "param", "code"),
    [
        ("vector_stores/vs_1/search", {"query": ""}, "query", "invalid_value"),
        ("vector_stores/vs_1/search", {"query": ["a", ""]}, "query[1]", "invalid_value"),
        ("vector_stores/vs_1/files", {"file_id": "f", "attributes": {"n": "x" * 513}}, "attributes.n", "invalid_value"),
        (
            "fine_tuning/jobs",
            {"model": "echo", "training_file": "f", "hyperparameters": {"n_epochs": 0}},
            "hyperparameters.n_epochs",
            "invalid_value",
        ),
    ],
)
def test_field_that_may_be_of_several_types_is_named_without_our_validators(
    server: Server, path: str, body: Any, param: str, code: str
) -> None:
    error = error_of(httpx.post(f"{server.url}/v1/{path}", json=body))
    assert (error["param"], error["code"]) == (param, code)
    assert "0x" not in error["message"]
