"""A real uvicorn server on a loopback port, over a workspace whose engines are scripted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import openai
import pytest
import uvicorn

from core.engines.base import OnDone, Result
from core.errors import EngineError
from core.remedy import Remedy, save_remedy
from core.types import Completion, Delta, Request, Usage
from core.workspace import Workspace
from serve.app import create_app
from serve.catalog import Catalog
from serve.server import listen, url_of


@dataclass
class EchoEngine:
    """Answers `MODEL: last message` word by word, and remembers what it was asked."""

    model: str = "echo"
    context_window: int | None = 4096
    delay_s: float = 0.0
    """Before each piece."""
    error: EngineError | None = None
    error_after: int = 0
    """Pieces before `error`."""
    answer: Callable[[Request], str] | None = None
    seen: list[Request] = field(default_factory=list)
    cancelled: int = 0
    closed: bool = False
    active: int = 0
    most_active: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def complete(self, requests: Sequence[Request], on_done: OnDone | None = None) -> list[Result]:
        raise AssertionError("the server streams")

    def stream(self, request: Request) -> Iterator[Delta]:
        with self._lock:
            self.seen.append(request)
            self.active += 1
            self.most_active = max(self.active, self.most_active)
        started = time.monotonic()
        text = self.answer(request) if self.answer else f"{self.model}: {request.messages[-1].content}"
        words = [w + " " for w in text.split(" ")]
        words[-1] = words[-1][:-1]
        kept = words[: request.sampling.max_tokens]
        try:
            for number, word in enumerate(kept):
                time.sleep(self.delay_s)
                if self.error is not None and number >= self.error_after:
                    raise self.error
                yield Delta(word)
            usage = Usage(sum(self.count_tokens(m.content) for m in request.messages), len(kept))
            reason = "stop" if len(kept) == len(words) else "length"
            yield Delta("", Completion("".join(kept), reason, usage, time.monotonic() - started))
        except GeneratorExit:
            self.cancelled += 1
            raise
        finally:
            with self._lock:
                self.active -= 1

    def close(self) -> None:
        self.closed = True


@dataclass
class Server:
    url: str
    app: Any
    catalog: Catalog

    def client(self, **options: Any) -> openai.OpenAI:
        options = {"api_key": "none", "max_retries": 0, "timeout": 30, **options}
        return openai.OpenAI(base_url=f"{self.url}/v1", _strict_response_validation=True, **options)


@contextmanager
def running(catalog: Catalog, **options: Any) -> Iterator[Server]:
    app = create_app(catalog, **options)
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(
        uvicorn.Config(app, lifespan="on", ws="none", log_config=None, access_log=False, timeout_graceful_shutdown=2)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    url = url_of(listener)
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        yield Server(url, app, catalog)
    finally:
        server.should_exit = True
        thread.join(20)
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


def wait_until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Raises AssertionError when `condition` does not come true in time."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)
