from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from core.workspace import Workspace
from tests.serve.conftest import EchoEngine, Server, declare

Serve = Callable[..., Server]


def test_models_lists_use_cases_variants_and_base_models(serve: Serve, workspace: Workspace) -> None:
    declare(workspace, "faq", route="prompt")
    declare(workspace, "intents", base_model="org/other")
    client = serve().client()
    names = ["faq", "faq:base", "intents", "intents:base", "echo", "org/other", "all-minilm-l6-v2"]
    assert [m.id for m in client.models.list()] == names
    assert client.models.retrieve("faq:base").id == "faq:base"
    assert client.models.retrieve("org/other").id == "org/other"


def test_every_listed_model_answers(serve: Serve, workspace: Workspace) -> None:
    declare(workspace, "faq")
    client = serve().client()
    models = [model for model in client.models.list() if model.model_extra["tunefork"]["route"] != "embedding"]  # type: ignore[index]
    for model in models:
        ask: Any = [{"role": "user", "content": "hi"}]
        assert client.chat.completions.create(model=model.id, messages=ask).choices[0].message.content == "echo: hi"


def test_empty_workspace_serves_the_starter(serve: Serve) -> None:
    assert [m.id for m in serve().client().models.list()] == ["smollm2-135m-instruct", "all-minilm-l6-v2"]


def test_no_name_shows_a_folder_or_address(serve: Serve, workspace: Workspace, tmp_path: Path) -> None:
    declare(workspace, "a", base_model=str(tmp_path / "mine"))
    declare(workspace, "b", base_model="gpt-x@http://10.1.2.3:99/v1")
    text = httpx.get(f"{serve().url}/v1/models").text
    assert '"mine"' in text
    assert '"gpt-x"' in text
    assert str(tmp_path) not in text
    assert "10.1.2.3" not in text


def test_health_answers_while_not_ready(serve: Serve) -> None:
    server = serve(phase="loading")
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
    response = httpx.get(f"{server.url}/ready")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "loading")
    server.app.state.phase = "ready"
    assert httpx.get(f"{server.url}/ready").json() == {"status": "ready", "busy": 0}


def test_keys_guard_the_api_and_not_the_health(serve: Serve, workspace: Workspace) -> None:
    declare(workspace, "faq")
    server = serve(api_keys=["k1", "k2"])
    assert httpx.get(f"{server.url}/health").status_code == 200
    assert httpx.get(f"{server.url}/v1/models").status_code == 401
    with pytest.raises(openai.AuthenticationError) as caught:
        server.client(api_key="k3").models.list()
    assert caught.value.code == "invalid_api_key"
    assert server.client(api_key="k2").models.list().data


def test_openapi_describes_errors_as_they_are(serve: Serve) -> None:
    document = httpx.get(f"{serve().url}/openapi.json").json()
    assert set(document["paths"]) >= {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/responses/{response_id}/input_items",
        "/v1/models",
        "/v1/models/{model}",
        "/health",
        "/ready",
    }
    chat = document["paths"]["/v1/chat/completions"]["post"]["responses"]
    assert set(chat) == {"200", "4XX", "5XX"}
    assert set(chat["200"]["content"]) == {"application/json", "text/event-stream"}
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_engine_is_opened_once_for_all_names(
    serve: Serve, workspace: Workspace, engines: dict[str, EchoEngine]
) -> None:
    declare(workspace, "a")
    declare(workspace, "b")
    server = serve()
    for name in ("a", "b", "a:base", "echo"):
        ask: Any = [{"role": "user", "content": name}]
        server.client().chat.completions.create(model=name, messages=ask)
    assert [request.messages[-1].content for request in engines["echo"].requests] == ["a", "b", "a:base", "echo"]


def test_docs_are_a_page_that_loads_nothing(serve: Serve) -> None:
    response = httpx.get(f"{serve().url}/docs")
    assert response.headers["content-type"].startswith("text/html")
    assert "/v1/chat/completions" in response.text
    assert "max_completion_tokens" in response.text
    assert "<script" not in response.text
    assert "src=" not in response.text
