"""HEAD answers as GET does, without the body."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from core.workspace import Workspace
from serve.keys import KeyStore
from tests.serve.conftest import Server, declare, wait_until

Serve = Callable[..., Server]
OWN = ("date", "x-request-id")
"""Headers that differ from one answer to the next."""


def _told(response: httpx.Response) -> tuple[int, list[tuple[str, str]]]:
    return response.status_code, [(k, v) for k, v in response.headers.items() if k not in OWN]


def test_every_get_route_answers_head_with_the_same_headers_and_no_body(serve: Serve, workspace: Workspace) -> None:
    declare(workspace, "faq")
    server = serve()
    document: dict[str, Any] = server.app.openapi()
    paths = [path for path, methods in document["paths"].items() if "get" in methods]
    assert {"/health", "/ready", "/v1/models", "/v1/models/{model}"} <= set(paths)
    with httpx.Client(base_url=server.url) as client:
        # What a path with a name in it answers is mostly a 404, which has a body too.
        for path in [*paths, "/docs", "/openapi.json", "/v1/models/faq", "/v1/nothing"]:
            head, got = client.head(path), client.get(path)
            assert head.content == b""
            assert got.content
            if path == "/metrics":  # has grown by these very requests
                assert head.status_code == got.status_code == 200
                continue
            assert _told(head) == _told(got), path


def test_head_says_when_the_server_is_not_ready(serve: Serve) -> None:
    server = serve(phase="loading")
    assert httpx.head(f"{server.url}/health").status_code == 200
    assert httpx.head(f"{server.url}/ready").status_code == 503


def test_head_needs_the_key_that_get_needs(serve: Serve, workspace: Workspace) -> None:
    _, secret = KeyStore(workspace.path).create(name="ci")
    server = serve(api_keys=["admin"])
    assert httpx.head(f"{server.url}/v1/models").status_code == 401
    own = {"Authorization": f"Bearer {secret}"}
    assert httpx.head(f"{server.url}/v1/models", headers=own).status_code == 200
    assert httpx.head(f"{server.url}/metrics", headers=own).status_code == 403


def test_path_that_knows_no_get_refuses_head(serve: Serve) -> None:
    server = serve()
    refused = httpx.head(f"{server.url}/v1/embeddings")
    assert (refused.status_code, refused.headers["allow"], refused.content) == (405, "POST", b"")
    assert httpx.put(f"{server.url}/health").headers["allow"] == "GET, HEAD"


def test_head_is_logged_as_what_it_is(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = serve()
    with caplog.at_level(logging.INFO, "tunefork.access"):
        httpx.head(f"{server.url}/health")
        wait_until(lambda: any(r.name == "tunefork.access" for r in caplog.records))
    (fields,) = [r.fields for r in caplog.records if r.name == "tunefork.access"]  # type: ignore[attr-defined]
    assert (fields["method"], fields["route"], fields["status"]) == ("HEAD", "/health", 200)
