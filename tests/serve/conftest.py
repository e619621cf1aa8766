"""A real uvicorn server on a loopback port, over a workspace whose engines are scripted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import openai
import pytest
import uvicorn

from core.engines.scripted import ScriptedEngine
from core.remedy import Remedy, save_remedy
from core.types import Delta, Request
from core.workspace import Workspace
from serve.app import create_app
from serve.catalog import Catalog
from serve.server import http_config, listen, url_of


class EchoEngine(ScriptedEngine):
    """Answers `MODEL: last message` word by word; can fail in mid-stream, and counts what runs and what is cancelled."""

    def __init__(
        self,
        model: str = "echo",
        *,
        answer: Callable[[Request], str] | None = None,
        delay_s: float = 0.0,
        error: Exception | None = None,
        error_after: int = 0,
    ) -> None:
        """
        Args:
            error: raised in place of the piece number `error_after`.
        """
        super().__init__(answer or (lambda r: f"{model}: {r.messages[-1].content}"), name=model, delay_s=delay_s)
        self._error = error
        self._error_after = error_after
        self.most_running = 0
        self.cancelled = 0
        self.closed = False

    def stream(self, request: Request) -> Iterator[Delta]:
        try:
            for number, delta in enumerate(super().stream(request)):
                self.most_running = max(self.most_running, self.running)
                if self._error is not None and number >= self._error_after:
                    raise self._error
                yield delta
        except GeneratorExit:
            self.cancelled += 1
            raise

    def close(self) -> None:
        super().close()
        self.closed = True


@dataclass
class Server:
    url: str
    app: Any
    catalog: Catalog
    clients: list[openai.OpenAI] = field(default_factory=list)

    def client(self, **options: Any) -> openai.OpenAI:
        options = {"api_key": "none", "max_retries": 0, "timeout": 300, **options}
        self.clients.append(openai.OpenAI(base_url=f"{self.url}/v1", _strict_response_validation=True, **options))
        return self.clients[-1]


@contextmanager
def running(catalog: Catalog, **options: Any) -> Iterator[Server]:
    app = create_app(catalog, **options)
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(http_config(app, grace_s=2))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    url = url_of(listener)
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        running_server = Server(url, app, catalog)
        yield running_server
        for client in running_server.clients:
            client.close()
    finally:
        server.should_exit = True
        thread.join(300)
        listener.close()
        catalog.close()
    assert not thread.is_alive(), "the server did not stop"


@pytest.fixture
def engines() -> dict[str, EchoEngine]:
    """Base engines that were opened, by model; put one in to decide how it behaves."""
    return {}


@pytest.fixture
def serve(workspace: Workspace, engines: dict[str, EchoEngine]) -> Iterator[Callable[..., Server]]:
    """Starts a server over the test's workspace."""

    def open_base(model: str) -> EchoEngine:
        return engines.setdefault(model, EchoEngine(model))

    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(running(Catalog(workspace, open_base), **options))


def declare(workspace: Workspace, name: str, route: str = "base", **fields: Any) -> None:
    """A use case with a remedy in force."""
    settings = {"base_model": fields.get("base_model", "echo"), "instruction": fields.get("instruction", "")}
    folder, _ = workspace.declare(name, settings)
    base = {"base_model": "echo", "embedding_model": "all-minilm-l6-v2"}
    save_remedy(folder.remedy_path, Remedy.model_validate({"use_case": name, "route": route, **base, **fields}))


def wait_until(condition: Callable[[], bool], timeout_s: float = 120.0) -> None:
    """Raises AssertionError when `condition` does not come true in a time that no slow machine needs."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)
