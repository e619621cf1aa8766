"""A small OpenAI-compatible server on a free loopback port, with a script for its misbehaviour."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from core.engines.base import Engine
from core.engines.tools import function_call
from core.errors import ContextTooLong
from core.types import ANY_OBJECT, CallPiece, Message, Request, Sampling, TokenLogprob, Tool

Trouble = Callable[[BaseHTTPRequestHandler, dict[str, Any]], bool]
"""Answers a request in its own way and returns True, or leaves it to the engine."""


class Endpoint:
    """Serves `engine`; `trouble` is asked first, request by request."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.trouble: Trouble = lambda _handler, _body: False
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.open = 0
        self.most_open = 0
        self.usage = True
        self.url = ""
        self.lock = threading.Lock()


@contextmanager
def serving(engine: Engine) -> Iterator[Endpoint]:
    endpoint = Endpoint(engine)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with endpoint.lock:
                endpoint.bodies.append(body)
                endpoint.headers.append(dict(self.headers))
                endpoint.open += 1
                endpoint.most_open = max(endpoint.most_open, endpoint.open)
            try:
                if not endpoint.trouble(self, body):
                    _answer(self, endpoint, body)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            finally:
                with endpoint.lock:
                    endpoint.open -= 1

        def log_message(self, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    endpoint.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def send(handler: BaseHTTPRequestHandler, status: int, body: str, **headers: str) -> bool:
    data = body.encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(data)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(data)
    return True


def begin_stream(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.close_connection = True


def event(handler: BaseHTTPRequestHandler, value: Any) -> None:
    data = value if isinstance(value, str) else json.dumps(value)
    handler.wfile.write(f"data: {data}\n\n".encode())
    handler.wfile.flush()


def _answer(handler: BaseHTTPRequestHandler, endpoint: Endpoint, body: dict[str, Any]) -> None:
    request = _request(body)
    if body.get("stream"):
        begin_stream(handler)
        for delta in endpoint.engine.stream(request):
            if delta.completion is None:
                told = {"logprobs": _logprobs(delta.logprobs)} if delta.logprobs else {}
                calls = {"tool_calls": _calls(delta.tool_calls)} if delta.tool_calls else {}
                said = {"text": delta.text} if "prompt" in body else {"delta": {"content": delta.text, **calls}}
                event(handler, {"choices": [{**said, **told, "finish_reason": None}]})
                continue
            done = delta.completion
            event(handler, {"choices": [{"delta": {}, "finish_reason": done.finish_reason}]})
            if endpoint.usage:
                event(handler, {"choices": [], "usage": _usage(done.usage.prompt_tokens, done.usage.completion_tokens)})
        event(handler, "[DONE]")
        return
    (result,) = endpoint.engine.complete([request])
    if isinstance(result, ContextTooLong):
        text = (
            f"This model's maximum context length is {result.context_window} tokens."
            f" However, your messages resulted in {result.prompt_tokens} tokens."
        )
        send(handler, 400, json.dumps({"error": {"message": text, "code": "context_length_exceeded"}}))
        return
    if isinstance(result, Exception):
        send(handler, 400, json.dumps({"error": {"message": str(result), "code": None}}))
        return
    calls = {"tool_calls": [function_call(call) for call in result.tool_calls]} if result.tool_calls else {}
    message = {"message": {"role": "assistant", "content": result.text, **calls}}
    said = {"text": result.text} if "prompt" in body else message
    logprobs = _logprobs(result.logprobs) if result.logprobs is not None else None
    value: dict[str, Any] = {"choices": [{**said, "logprobs": logprobs, "finish_reason": result.finish_reason}]}
    if endpoint.usage:
        value["usage"] = _usage(result.usage.prompt_tokens, result.usage.completion_tokens)
    send(handler, 200, json.dumps(value))


def _request(body: dict[str, Any]) -> Request:
    tools = {t["function"]["name"]: _tool(t["function"]) for t in body.get("tools", ())}
    choice = body.get("tool_choice", "auto")
    shape = body.get("response_format", {})
    schema = {"json_object": ANY_OBJECT, "json_schema": json.dumps(shape.get("json_schema", {}).get("schema"))}
    return Request(
        tuple(Message(m["role"], m["content"]) for m in body.get("messages", ())),
        Sampling(
            max_tokens=body["max_tokens"],
            temperature=body["temperature"],
            top_p=body.get("top_p", 1.0),
            stop=tuple(body.get("stop", ())),
            seed=body.get("seed"),
            top_logprobs=body.get("top_logprobs", 0) if body.get("logprobs") else None,
            json_schema=schema.get(shape.get("type")),
        ),
        tools=tuple(tools.values()),
        tool_choice=choice if isinstance(choice, str) else tools[choice["function"]["name"]],
        prompt=body.get("prompt"),
    )


def _tool(function: dict[str, Any]) -> Tool:
    return Tool(function["name"], function["description"], json.dumps(function["parameters"]))


def _calls(pieces: Sequence[CallPiece]) -> list[dict[str, Any]]:
    """Pieces of calls as OpenAI streams them."""
    first = [{"id": piece.id, "type": "function"} if piece.id else {} for piece in pieces]
    named = [{"name": piece.name} if piece.name else {} for piece in pieces]
    return [
        {"index": piece.index, **head, "function": {**name, "arguments": piece.arguments}}
        for piece, head, name in zip(pieces, first, named, strict=True)
    ]


def _logprobs(logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    return {
        "content": [
            {
                "token": lp.token,
                "logprob": lp.logprob,
                "bytes": list(lp.raw),
                "top_logprobs": [{"token": t, "logprob": p, "bytes": list(raw)} for t, p, raw in lp.top],
            }
            for lp in logprobs
        ]
    }


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
