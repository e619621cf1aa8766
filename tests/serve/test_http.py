"""Below the routes: request heads, encodings of a body, query parameters, pipelining; and the document of all routes."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from uvicorn.server import ServerState

from core.workspace import Workspace
from serve.protocol import MAX_HEAD_BYTES, Protocol
from tests.serve.conftest import Server, declare

Serve = Callable[..., Server]
BODY = json.dumps({"model": "faq", "messages": [{"role": "user", "content": "hi"}]}).encode()
POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
WHOLE = POST + b"content-length: %d\r\n\r\n" % len(BODY) + BODY
LAST = WHOLE.replace(b"host: x", b"host: x\r\nconnection: close")
"""A request after which the server ends the connection."""


@pytest.fixture
def server(serve: Serve, workspace: Workspace) -> Server:
    declare(workspace, "faq")
    return serve()


def exchange(server: Server, data: bytes) -> bytes:
    """What comes back for `data` until the server ends the connection."""
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port or 80)) as connection:
        connection.settimeout(300)
        connection.sendall(data)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer


def error_in(answer: bytes) -> tuple[int, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head
    return int(head.split()[1]), json.loads(body)["error"]


def test_requests_in_one_go_are_answered_in_order(server: Server) -> None:
    answer = exchange(server, WHOLE + b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n" + LAST)
    assert answer.count(b"HTTP/1.1 200 OK") == 3
    assert answer.index(b"chat.completion") < answer.index(b'"status":"ok"') < answer.rindex(b"chat.completion")


class Written(asyncio.Transport):
    """A connection without a network: how data is cut into parts is the test's to say."""

    def __init__(self) -> None:
        super().__init__()
        self.data, self.closed = b"", False

    def write(self, data: Any) -> None:
        self.data += bytes(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


@pytest.mark.parametrize("cuts", [1, 2, 100])
@pytest.mark.parametrize("whole", [True, False])
def test_head_has_a_limit_however_it_arrives(cuts: int, whole: bool) -> None:
    loop, transport = asyncio.new_event_loop(), Written()
    protocol = Protocol(uvicorn.Config(None, ws="none", log_config=None), ServerState(), {}, loop)  # type: ignore[arg-type]
    protocol.connection_made(transport)
    head = b"GET /health HTTP/1.1\r\nhost: x\r\nx-long: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n" * whole
    size = -(-len(head) // cuts)
    for start in range(0, len(head), size):
        if not transport.closed:
            protocol.data_received(head[start : start + size])
    status, error = error_in(transport.data)
    assert (status, error["code"], transport.closed) == (431, "headers_too_large", True)
    loop.close()


def test_long_heads_of_requests_in_one_go_are_not_added_up(server: Server) -> None:
    below = b"GET /health HTTP/1.1\r\nhost: x\r\nx-long: " + b"a" * (MAX_HEAD_BYTES - 1000) + b"\r\n\r\n"
    assert exchange(server, below * 3 + LAST).count(b"HTTP/1.1 200") == 4


@pytest.mark.parametrize("data", [b"rubbish\r\n\r\n", b"GET /health HTTP/1.1\r\ncontent-length: x\r\n\r\n"])
def test_what_is_no_http_is_told_in_the_envelope(server: Server, data: bytes) -> None:
    status, error = error_in(exchange(server, data))
    assert (status, error["code"]) == (400, "invalid_http")
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("path", ["chat/completions", "files"])
def test_compressed_body_is_a_415_that_says_so(server: Server, path: str) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    answer = httpx.post(f"{server.url}/v1/{path}", content=gzip.compress(BODY), headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_encoding")
    plain = {**headers, "content-encoding": "identity"}
    assert httpx.post(f"{server.url}/v1/chat/completions", content=BODY, headers=plain).status_code == 200


def test_no_route_ignores_a_query_parameter(server: Server) -> None:
    names = {"model": "faq", "file_id": "f", "store_id": "v", "batch_id": "b", "job_id": "j", "response_id": "r"}
    paths = server.app.openapi()["paths"]
    seen = 0
    for path, operations in paths.items():
        if not path.startswith("/v1/"):
            continue
        url = f"{server.url}{path.format(**names, name='faq')}"
        for method in operations:
            answer = httpx.request(method, url, params={"unlikely": 1}, json={} if method == "post" else None)
            error = answer.json()["error"]
            assert (answer.status_code, error["param"], error["code"]) == (400, "unlikely", "unknown_parameter"), url
            seen += 1
    assert seen > 40


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def test_every_reference_of_the_document_leads_somewhere(server: Server) -> None:
    document = server.app.openapi()
    found = set(references(document))
    assert found
    for reference in found:
        node: Any = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
