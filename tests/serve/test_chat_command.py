"""`tunefork chat`, in this process and at a running server."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner

import core.engines.open
from core.cli import tunefork
from core.errors import ConfigError, EngineError, EngineUnavailable
from core.workspace import Workspace
from serve.served import UnknownModel
from tests.serve.conftest import EchoEngine, Server, declare

Serve = Callable[..., Server]


@pytest.fixture
def echo(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> EchoEngine:
    """Every base model is an echo, in this process."""
    declare(workspace, "faq", max_tokens=50)
    engine = EchoEngine()
    monkeypatch.setattr(core.engines.open, "open_engine", lambda *_args, **_options: engine)
    return engine


def run(*arguments: str, input: str | None = None) -> str:
    result = CliRunner().invoke(tunefork, ["chat", *arguments], input=input, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_one_message_prints_its_answer(echo: EchoEngine) -> None:
    assert run("faq", "hello there") == "echo: hello there\n"
    assert echo.closed


def test_message_may_come_on_standard_input(echo: EchoEngine) -> None:
    assert run("faq", input="from a pipe") == "echo: from a pipe\n"


def test_json_is_one_document(echo: EchoEngine) -> None:
    document = json.loads(run("faq", "hi", "--json", "--max-tokens", "1"))
    assert document == {
        "model": "faq",
        "answer": "echo:",
        "finish_reason": "length",
        "usage": {"prompt_tokens": 1, "completion_tokens": 1},
        "sources": [],
    }


@pytest.mark.usefixtures("echo")
def test_unknown_name_lists_near_ones() -> None:
    with pytest.raises(UnknownModel, match="did you mean faq"):
        run("faqs", "hi")


@pytest.mark.usefixtures("echo")
def test_empty_message_is_refused() -> None:
    with pytest.raises(ConfigError, match="empty"):
        run("faq", " ")


def test_asks_a_running_server(serve: Serve, workspace: Workspace) -> None:
    declare(workspace, "faq")
    url = f"{serve().url}/v1"
    assert run("faq", "hello", "--url", url) == "echo: hello\n"
    assert json.loads(run("faq", "hello", "--url", url, "--json"))["usage"] == {
        "prompt_tokens": 1,
        "completion_tokens": 2,
    }
    with pytest.raises(ConfigError, match="did you mean faq"):
        run("faqs", "hi", "--url", url)
    with pytest.raises(ConfigError, match="mostly ends in /v1"):
        run("faq", "hi", "--url", url.removesuffix("/v1"))


def test_server_that_fails_or_is_not_there_is_said(
    serve: Serve, workspace: Workspace, engines: dict[str, EchoEngine]
) -> None:
    declare(workspace, "faq")
    engines["echo"] = EchoEngine(error=EngineError("x"), error_after=1)
    server = serve(api_keys=["k"])
    with pytest.raises(EngineError, match="failed on this request"):
        run("faq", "hi", "--url", f"{server.url}/v1", "--api-key", "k")
    with pytest.raises(ConfigError, match="wants an API key"):
        run("faq", "hi", "--url", f"{server.url}/v1")
    with pytest.raises(EngineUnavailable, match="tunefork serve"):
        run("faq", "hi", "--url", "http://127.0.0.1:9/v1")


def test_conversation_remembers_its_turns_until_new(echo: EchoEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    from serve.asking import in_process
    from serve.catalog import Catalog
    from serve.commands.chat import _talk

    lines = iter(["one", "two", "/new", "three", ""])
    monkeypatch.setattr("builtins.input", lambda _prompt: next(lines))
    catalog: Any = Catalog(Workspace(_home()), lambda _model: echo)
    _talk(in_process(catalog, "faq", None))
    asked = [[m.content for m in request.messages] for request in echo.requests]
    assert asked == [["one"], ["one", "echo: one", "two"], ["three"]]


def _home() -> Any:
    from core.workspace import open_workspace

    return open_workspace().path
