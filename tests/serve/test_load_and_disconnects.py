"""A full queue, clients that leave, and a loop that stays free."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from core.workspace import Workspace
from tests.serve.conftest import EchoEngine, Server, declare, wait_until

LONG = "word " * 200
ASK: Any = [{"role": "user", "content": LONG}]
Serve = Callable[..., Server]


@pytest.fixture
def slow(workspace: Workspace, engines: dict[str, EchoEngine]) -> EchoEngine:
    declare(workspace, "faq", max_tokens=400)
    # A whole answer would take 40 s.
    engines["echo"] = EchoEngine(delay_s=0.2)
    return engines["echo"]


class Gate:
    """An engine whose answers begin when the gate is open."""

    def __init__(self, answer: str = LONG) -> None:
        self.opened = threading.Event()
        self.engine = EchoEngine(answer=lambda _: answer if self.opened.wait(300) else "")


@pytest.fixture
def gate(workspace: Workspace, engines: dict[str, EchoEngine]) -> Iterator[Gate]:
    declare(workspace, "faq", max_tokens=400)
    gate = Gate()
    engines["echo"] = gate.engine
    yield gate
    gate.opened.set()


def hang_up_after_asking(server: Server, slow: EchoEngine, stream: bool) -> None:
    """Ask, wait until the engine works on it, and close the connection."""
    request = httpx.Request(
        "POST", f"{server.url}/v1/chat/completions", json={"model": "faq", "messages": ASK, "stream": stream}
    )
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(request.content)}\r\n\r\n"
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port)) as connection:
        connection.sendall(head.encode() + request.content)
        wait_until(lambda: slow.running == 1)


@pytest.mark.parametrize("stream", [False, True])
def test_client_that_leaves_frees_its_slot_in_mid_answer(
    serve: Serve, workspace: Workspace, slow: EchoEngine, stream: bool
) -> None:
    server = serve()
    hang_up_after_asking(server, slow, stream)
    wait_until(lambda: slow.running == 0)
    assert slow.cancelled == 1
    wait_until(lambda: server.app.state.workers.busy == 0)


def test_client_that_leaves_in_mid_stream_cancels_the_answer(serve: Serve, slow: EchoEngine) -> None:
    server = serve()
    with server.client() as client:
        stream = client.chat.completions.create(model="faq", messages=ASK, stream=True)
        next(stream)
        next(stream)
        stream.close()
    wait_until(lambda: slow.running == 0)
    assert slow.cancelled == 1


def test_client_that_leaves_the_queue_is_never_answered(serve: Serve, gate: Gate) -> None:
    server = serve(running=1)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.client().chat.completions.create, model="faq", messages=ASK, max_tokens=1)
        wait_until(lambda: gate.engine.running == 1)
        with pytest.raises(openai.APITimeoutError):
            server.client(timeout=0.3).chat.completions.create(model="faq", messages=ASK)
        wait_until(lambda: server.app.state.workers.busy == 1)
        gate.opened.set()
        assert first.result().choices
    wait_until(lambda: server.app.state.workers.busy == 0)
    assert len(gate.engine.requests) == 1


def test_full_queue_is_a_429_with_retry_after(serve: Serve, gate: Gate) -> None:
    server = serve(running=1, waiting=1)
    streams = [
        threading.Thread(
            target=lambda: server.client().chat.completions.create(model="faq", messages=ASK, max_tokens=20)
        )
        for _ in range(2)
    ]
    for thread in streams:
        thread.start()
    wait_until(lambda: server.app.state.workers.busy == 2)
    with pytest.raises(openai.RateLimitError) as caught:
        server.client().chat.completions.create(model="faq", messages=ASK)
    assert caught.value.code == "queue_full"
    assert int(caught.value.response.headers["retry-after"]) >= 1
    gate.opened.set()
    for thread in streams:
        thread.join()
    assert server.client().chat.completions.create(model="faq", messages=ASK, max_tokens=1).choices


def test_no_more_answers_are_made_at_once_than_allowed(
    serve: Serve, workspace: Workspace, engines: dict[str, EchoEngine]
) -> None:
    declare(workspace, "faq")
    # Two begin together, or none.
    pair = threading.Barrier(2)
    engines["echo"] = EchoEngine(answer=lambda _: LONG if pair.wait(300) >= 0 else "")
    server = serve(running=2)
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda _: server.client().chat.completions.create(model="faq", messages=ASK, max_tokens=3), range(8)
            )
        )
    assert engines["echo"].most_running == 2


def test_health_answers_while_sixty_four_answers_are_made(serve: Serve, gate: Gate) -> None:
    server = serve()
    client = server.client()

    def ask(_: int) -> None:
        for _chunk in client.chat.completions.create(model="faq", messages=ASK, stream=True, max_tokens=30):
            pass

    with ThreadPoolExecutor(64) as pool:
        asked = [pool.submit(ask, i) for i in range(64)]
        wait_until(lambda: gate.engine.running == 64)
        for _ in range(10):
            httpx.get(f"{server.url}/health").raise_for_status()
        assert gate.engine.running == 64
        gate.opened.set()
        for future in asked:
            future.result()
