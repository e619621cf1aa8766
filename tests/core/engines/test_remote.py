"""The remote engine against a real HTTP server that behaves as real ones do, badly at times."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from core.engines.remote import RemoteEngine
from core.engines.retries import Breaker, Retrying
from core.engines.scripted import ScriptedEngine
from core.errors import ContextTooLong, EngineError, EngineTimeout, EngineUnavailable
from core.types import Completion, Message, Request, Sampling
from tests.core.engines.endpoint import Endpoint, Trouble, begin_stream, event, send, serving

QUICK = Retrying(attempts=3, first_s=0.01)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serving(ScriptedEngine(lambda request: f"You said {request.messages[-1].content} to me.")) as served:
        yield served


@pytest.fixture
def engine(endpoint: Endpoint) -> Iterator[RemoteEngine]:
    made = RemoteEngine(endpoint.url, "gpt-test", api_key="secret", retrying=QUICK, timeout_s=300)
    yield made
    made.close()


def _ask(text: str = "hello", **sampling: Any) -> Request:
    return Request((Message("system", "Be brief."), Message("user", text)), Sampling(**sampling))


def _one(engine: RemoteEngine, request: Request | None = None) -> Completion:
    (result,) = engine.complete([request or _ask()])
    assert isinstance(result, Completion), result
    return result


def _failed(engine: RemoteEngine, request: Request | None = None) -> EngineError:
    """The error of a single call, whether it stands in the list or, for a dead endpoint, is raised."""
    try:
        (result,) = engine.complete([request or _ask()])
    except EngineUnavailable as exc:
        return exc
    assert isinstance(result, EngineError)
    return result


def _silent(told: threading.Event) -> Trouble:
    """No answer until it is told to."""
    return lambda _handler, _body: not told.wait(300)


def _wait_until(condition: Callable[[], bool], timeout_s: float = 120.0) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


def _first(endpoint: Endpoint, count: int, status: int, body: str = "{}", **headers: str) -> None:
    """Let the first `count` requests fail so."""

    def trouble(handler: BaseHTTPRequestHandler, _body: dict[str, Any]) -> bool:
        return len(endpoint.bodies) <= count and send(handler, status, body, **headers)

    endpoint.trouble = trouble


def test_a_request_carries_what_was_asked_and_no_more(endpoint: Endpoint, engine: RemoteEngine) -> None:
    _one(engine, _ask(max_tokens=7))
    assert endpoint.bodies == [
        {
            "model": "gpt-test",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}],
            "max_tokens": 7,
            "temperature": 0.0,
        }
    ]
    assert endpoint.headers[0]["Authorization"] == "Bearer secret"


def test_sampling_options_are_sent_when_they_are_set(endpoint: Endpoint, engine: RemoteEngine) -> None:
    _one(engine, _ask(temperature=0.5, top_p=0.9, seed=3, stop=("\n",)))
    sent = endpoint.bodies[0]
    assert (sent["temperature"], sent["top_p"], sent["seed"], sent["stop"]) == (0.5, 0.9, 3, ["\n"])


def test_stop_strings_beyond_the_fourth_are_applied_here(endpoint: Endpoint, engine: RemoteEngine) -> None:
    completion = _one(engine, _ask(stop=("q", "w", "z", "%", " to")))
    assert endpoint.bodies[0]["stop"] == ["q", "w", "z", "%"]
    assert (completion.text, completion.finish_reason) == ("You said hello", "stop")


@pytest.mark.parametrize("variable", ["TUNEFORK_API_KEY", "OPENAI_API_KEY"])
def test_the_key_comes_from_the_environment(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    for name in ("TUNEFORK_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "from-env")
    engine = RemoteEngine(endpoint.url, "m")
    _one(engine)
    engine.close()
    assert endpoint.headers[0]["Authorization"] == "Bearer from-env"


def test_a_url_without_a_path_means_v1(endpoint: Endpoint) -> None:
    paths = []

    def trouble(handler: BaseHTTPRequestHandler, _body: dict[str, Any]) -> bool:
        paths.append(handler.path)
        return False

    endpoint.trouble = trouble
    engine = RemoteEngine(endpoint.url.removesuffix("/v1"), "m")
    _one(engine)
    engine.close()
    assert paths == ["/v1/chat/completions"]


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_passing_failure_is_tried_again(endpoint: Endpoint, engine: RemoteEngine, status: int) -> None:
    _first(endpoint, 2, status)
    assert _one(engine).text == "You said hello to me."
    assert len(endpoint.bodies) == 3


def test_retry_after_is_waited_for(endpoint: Endpoint, engine: RemoteEngine) -> None:
    _first(endpoint, 1, 429, Retry_After="0.3")
    started = time.monotonic()
    completion = _one(engine)
    spent = time.monotonic() - started
    assert spent >= 0.3
    assert completion.latency_s <= spent - 0.3, "the wait for our turn is no part of the model's latency"


def test_a_lasting_failure_is_a_value_with_the_servers_message(endpoint: Endpoint, engine: RemoteEngine) -> None:
    _first(endpoint, 99, 429, json.dumps({"error": {"message": "slow down", "code": "rate_limit"}}))
    error = _failed(engine)
    assert "429: slow down" in str(error)
    assert len(endpoint.bodies) == QUICK.attempts


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_a_refusal_is_not_tried_again(endpoint: Endpoint, engine: RemoteEngine, status: int) -> None:
    _first(endpoint, 99, status, json.dumps({"error": {"message": "no such thing"}}))
    assert f"{status}: no such thing" in str(_failed(engine))
    assert len(endpoint.bodies) == 1


def test_an_exhausted_quota_is_not_waited_for(endpoint: Endpoint, engine: RemoteEngine) -> None:
    _first(endpoint, 99, 429, json.dumps({"error": {"message": "pay first", "code": "insufficient_quota"}}))
    with pytest.raises(EngineUnavailable, match="pay first"):
        engine.complete([_ask(), _ask()])
    assert len(endpoint.bodies) <= 2


def test_an_item_that_fails_leaves_its_neighbours_alone(endpoint: Endpoint, engine: RemoteEngine) -> None:
    def trouble(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        return body["messages"][-1]["content"] == "bad" and send(handler, 503, "{}")

    endpoint.trouble = trouble
    good, bad, last = engine.complete([_ask("one"), _ask("bad"), _ask("three")])
    assert isinstance(bad, EngineUnavailable)
    assert [getattr(r, "text", None) for r in (good, last)] == ["You said one to me.", "You said three to me."]


def test_nobody_listening_is_found_out_by_a_few_requests_for_the_whole_batch(
    monkeypatch: pytest.MonkeyPatch, reserved_port: int
) -> None:
    tried: list[object] = []
    real = aiohttp.ClientSession.post

    def counted(self: aiohttp.ClientSession, url: str, **options: Any) -> Any:
        tried.append(url)
        return real(self, url, **options)

    monkeypatch.setattr(aiohttp.ClientSession, "post", counted)
    engine = RemoteEngine(f"http://127.0.0.1:{reserved_port}/v1", "m", retrying=QUICK, concurrency=4)
    with pytest.raises(EngineUnavailable, match="cannot be reached"):
        engine.complete([_ask()] * 400)
    assert 0 < len(tried) < 100
    engine.close()


def test_an_endpoint_that_comes_back_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("core.engines.retries.time", SimpleNamespace(monotonic=lambda: now[0]))
    breaker = Breaker(failures=2, pause_s=10)
    breaker.failed()
    breaker.check("here")
    breaker.failed()
    with pytest.raises(EngineUnavailable, match="2 requests in a row"):
        breaker.check("here")
    now[0] += 10.5
    breaker.check("here")


def test_silence_is_a_timeout(endpoint: Endpoint) -> None:
    told = threading.Event()
    endpoint.trouble = _silent(told)
    engine = RemoteEngine(endpoint.url, "m", timeout_s=0.5, retrying=QUICK)
    assert isinstance(_failed(engine), EngineTimeout)
    told.set()
    # A second attempt would be its neighbour, or wait to be read.
    _wait_until(lambda: endpoint.open == 0 and bool(endpoint.bodies))
    assert len(endpoint.bodies) == 1, "the work is under way there; asking again would double it"
    engine.close()


@pytest.mark.parametrize(
    "body", ["<html>busy</html>", "{}", '{"choices": []}', "[1]", '{"choices": [{"message": null}]}']
)
def test_junk_is_named_as_such(endpoint: Endpoint, engine: RemoteEngine, body: str) -> None:
    _first(endpoint, 99, 200, body)
    assert "no chat completion" in str(_failed(engine))


def test_a_server_without_usage_gets_an_estimate(endpoint: Endpoint, engine: RemoteEngine) -> None:
    endpoint.usage = False
    assert _one(engine).usage.completion_tokens == engine.count_tokens("You said hello to me.")
    *_, last = engine.stream(_ask())
    assert last.completion is not None
    assert last.completion.usage.prompt_tokens > 0


@pytest.mark.parametrize(
    ("message", "prompt", "window"),
    [
        (
            "This model's maximum context length is 4097 tokens. However, your messages resulted in 5000 tokens.",
            5000,
            4097,
        ),
        (
            "This model's maximum context length is 2048 tokens. However, your prompt contains 9031 input tokens, which"
            " exceeds this limit even without any output tokens.",
            9031,
            2048,
        ),
        ("the request exceeds the available context size (4096 tokens), prompt has 7000 tokens", 7000, 4096),
    ],
)
def test_a_context_that_is_too_long_is_known_by_its_wording(
    endpoint: Endpoint, engine: RemoteEngine, message: str, prompt: int, window: int
) -> None:
    _first(endpoint, 99, 400, json.dumps({"error": {"message": message}}))
    error = _failed(engine)
    assert isinstance(error, ContextTooLong)
    assert (error.prompt_tokens, error.context_window) == (prompt, window)


def test_an_answer_longer_than_the_windows_rest_is_asked_for_again_shorter(
    endpoint: Endpoint, engine: RemoteEngine
) -> None:
    message = (
        "This model's maximum context length is 2048 tokens. However, you requested 2300 tokens"
        " (300 in the messages, 2000 in the completion). Please reduce the length."
    )
    _first(endpoint, 1, 400, json.dumps({"error": {"message": message, "code": "context_length_exceeded"}}))
    assert _one(engine, _ask(max_tokens=2000)).text
    assert [body["max_tokens"] for body in endpoint.bodies] == [2000, 1748]


def test_a_model_that_wants_max_completion_tokens_gets_it(endpoint: Endpoint, engine: RemoteEngine) -> None:
    error = {"message": "use max_completion_tokens", "code": "unsupported_parameter", "param": "max_tokens"}

    def trouble(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        if "max_tokens" in body:
            return send(handler, 400, json.dumps({"error": error}))
        body["max_tokens"] = body["max_completion_tokens"]
        return False

    endpoint.trouble = trouble
    _one(engine)
    _one(engine)
    assert len(endpoint.bodies) == 3, "it is asked the wrong way once"


def test_a_content_filter_is_no_answer(endpoint: Endpoint, engine: RemoteEngine) -> None:
    choice = {"message": {"content": "I"}, "finish_reason": "content_filter"}
    _first(endpoint, 99, 200, json.dumps({"choices": [choice]}))
    assert "content filter" in str(_failed(engine))


@pytest.mark.parametrize("ending", ["nothing", "junk", "error"])
def test_a_stream_that_breaks_off_is_an_error_after_its_pieces(
    endpoint: Endpoint, engine: RemoteEngine, ending: str
) -> None:
    def trouble(handler: BaseHTTPRequestHandler, _body: dict[str, Any]) -> bool:
        begin_stream(handler)
        event(handler, {"choices": [{"delta": {"role": "assistant"}}]})
        event(handler, {"choices": [{"delta": {"content": "Half an"}}]})
        if ending == "junk":
            event(handler, "{nonsense")
        if ending == "error":
            event(handler, {"error": {"message": "the model fell over"}})
        return True

    endpoint.trouble = trouble
    texts: list[str] = []
    with pytest.raises(EngineError, match="broke off|no chat completion chunk|fell over"):
        texts.extend(delta.text for delta in engine.stream(_ask()))
    assert texts == ["Half an"]
    assert len(endpoint.bodies) == 1, "what was shown cannot be taken back, so there is no second attempt"


def test_a_connection_that_is_reset_between_pieces_is_not_tried_again(endpoint: Endpoint, engine: RemoteEngine) -> None:
    # A reset throws away what has not been read yet.
    read = threading.Event()

    def trouble(handler: BaseHTTPRequestHandler, _body: dict[str, Any]) -> bool:
        begin_stream(handler)
        event(handler, {"choices": [{"delta": {"content": "Half an"}}]})
        read.wait(300)
        # Closing with this option set sends a reset instead of an orderly end.
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()
        return True

    endpoint.trouble = trouble
    texts: list[str] = []
    with pytest.raises(EngineError):
        for delta in engine.stream(_ask()):
            texts.append(delta.text)
            read.set()
    assert texts == ["Half an"]
    assert len(endpoint.bodies) == 1


def test_comments_and_other_fields_in_a_stream_are_passed_over(endpoint: Endpoint, engine: RemoteEngine) -> None:
    def trouble(handler: BaseHTTPRequestHandler, _body: dict[str, Any]) -> bool:
        begin_stream(handler)
        handler.wfile.write(b": keep-alive\r\n\r\nevent: message\r\nid: 1\r\n")
        event(handler, {"choices": [{"delta": {"content": "Yes"}, "finish_reason": "stop"}]})
        event(handler, {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 1}})
        event(handler, "[DONE]")
        return True

    endpoint.trouble = trouble
    *_, last = engine.stream(_ask())
    assert last.completion is not None
    assert (last.completion.text, last.completion.usage.prompt_tokens) == ("Yes", 5)


def test_no_more_requests_are_under_way_than_allowed(endpoint: Endpoint) -> None:
    # Three are under way together, or none is answered.
    three = threading.Barrier(3)
    endpoint.trouble = lambda _handler, _body: three.wait(300) < 0
    engine = RemoteEngine(endpoint.url, "m", concurrency=3)
    results = engine.complete([_ask(f"n{i}") for i in range(12)])
    engine.close()
    assert [getattr(r, "text", r) for r in results] == [f"You said n{i} to me." for i in range(12)]
    assert endpoint.most_open == 3


def test_closing_a_stream_hangs_up() -> None:
    # The whole answer would take minutes.
    scripted = ScriptedEngine(lambda _request: "word " * 2000, delay_s=0.1)
    with serving(scripted) as endpoint:
        engine = RemoteEngine(endpoint.url, "m")
        stream = engine.stream(_ask(max_tokens=2000))
        next(stream)
        stream.close()  # type: ignore[attr-defined]
        _wait_until(lambda: scripted.running == 0)
        engine.close()


def test_closing_the_engine_ends_what_is_under_way(endpoint: Endpoint) -> None:
    told = threading.Event()
    endpoint.trouble = _silent(told)
    engine = RemoteEngine(endpoint.url, "m")
    errors: list[Exception] = []

    def ask() -> None:
        try:
            engine.complete([_ask()])
        except EngineUnavailable as exc:
            errors.append(exc)

    thread = threading.Thread(target=ask)
    thread.start()
    _wait_until(lambda: endpoint.open == 1)
    engine.close()
    engine.close()
    thread.join(300)
    assert len(errors) == 1
    told.set()
    with pytest.raises(EngineUnavailable, match="closed"):
        engine.complete([_ask()])


def test_an_adapter_folder_cannot_be_sent(engine: RemoteEngine) -> None:
    request = Request((Message("user", "hi"),), adapter="/some/adapter")
    assert "cannot load the adapter" in str(_failed(engine, request))
