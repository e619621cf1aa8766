"""The legacy completions endpoint through the official client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from core.types import Message, Request
from core.workspace import Workspace
from tests.serve.conftest import EchoEngine, Server, declare

Serve = Callable[..., Server]


def _continuation(request: Request) -> str:
    return f"[{request.messages[-1].content if request.prompt is None else request.prompt}] and more"


def lenient(server: Server) -> openai.OpenAI:
    """The client's own model of a completion has no chunks: it wants a finish_reason in each."""
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")


@pytest.fixture
def server(serve: Serve, workspace: Workspace, engines: dict[str, EchoEngine]) -> Server:
    declare(workspace, "faq", instruction="Be kind.")
    engines["echo"] = EchoEngine(answer=_continuation)
    return serve()


def test_base_model_continues_the_prompt_as_it_stands(server: Server, engines: dict[str, EchoEngine]) -> None:
    answer = server.client().completions.create(model="echo", prompt="Once upon", seed=3, stop="zzz")
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("[Once upon] and more", "stop")
    assert answer.object == "text_completion"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 4)
    asked = engines["echo"].requests[-1]
    assert (asked.prompt, asked.messages, asked.sampling.max_tokens) == ("Once upon", (), 16)
    assert (asked.sampling.seed, asked.sampling.stop) == (3, ("zzz",))


def test_use_case_takes_the_prompt_as_the_users_message(server: Server, engines: dict[str, EchoEngine]) -> None:
    answer = server.client().completions.create(model="faq", prompt="hi")
    assert answer.choices[0].text == "[hi] and more"
    assert engines["echo"].requests[-1].messages == (Message("system", "Be kind."), Message("user", "hi"))


def test_several_prompts_and_choices_come_in_order(server: Server) -> None:
    answer = server.client().completions.create(model="echo", prompt=["a", "b"], n=2)
    assert [(c.index, c.text[:3]) for c in answer.choices] == [(0, "[a]"), (1, "[a]"), (2, "[b]"), (3, "[b]")]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 2


@pytest.mark.parametrize("prompt", [[1, 2, 3], [[1, 2, 3]]])
def test_token_ids_are_a_prompt(server: Server, engines: dict[str, EchoEngine], prompt: Any) -> None:
    server.client().completions.create(model="echo", prompt=prompt)
    assert engines["echo"].requests[-1].prompt == (1, 2, 3)


def test_stream_adds_up_and_ends_with_usage(server: Server) -> None:
    options: Any = {"stream": True, "stream_options": {"include_usage": True}}
    with lenient(server) as client:
        *chunks, last = client.completions.create(model="echo", prompt="x", **options)
    assert "".join(c.choices[0].text for c in chunks) == "[x] and more"
    assert [c.choices[0].finish_reason for c in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert last.choices == []
    assert last.usage.total_tokens == 4


def test_log_probabilities_have_the_old_form(server: Server) -> None:
    logprobs = server.client().completions.create(model="echo", prompt="x", logprobs=2).choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens == ["[x]", " and", " more"]
    assert logprobs.token_logprobs == [0, 0, 0]
    assert logprobs.text_offset == [0, 3, 7]
    assert logprobs.top_logprobs == [{"[x]": 0}, {" and": 0}, {" more": 0}]
    with lenient(server) as client:
        streamed = list(client.completions.create(model="echo", prompt="x", logprobs=0, stream=True))
    assert [c.choices[0].logprobs.text_offset for c in streamed if c.choices[0].logprobs] == [[0], [3], [7]]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"echo": True}, "echo", "unsupported_value"),
        ({"suffix": "end"}, "suffix", "unsupported_value"),
        ({"best_of": 3}, "best_of", "unsupported_value"),
        ({"logprobs": 6}, "logprobs", "invalid_value"),
        ({"prompt": []}, "prompt", "invalid_value"),
        ({"prompt": [[]]}, "prompt", "invalid_value"),
        ({"prompt": {"a": 1}}, "prompt", "invalid_value"),
        ({"prompt": "\ud800"}, "prompt", "invalid_value"),
        ({"prompt": ["a"] * 100, "n": 2}, "n", "invalid_value"),
        ({"model": "faq", "prompt": [1, 2]}, "prompt", "unsupported_value"),
        ({"model": "faq", "prompt": " "}, "prompt", "unsupported_value"),
        ({"model": "nobody"}, "model", "model_not_found"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"messages": []}, "messages", "unknown_parameter"),
    ],
)
def test_what_cannot_be_honoured_is_refused(server: Server, fields: dict[str, Any], param: str, code: str) -> None:
    import json

    content = json.dumps({"model": "echo", "prompt": "x", **fields})
    response = httpx.post(f"{server.url}/v1/completions", content=content, headers={"content-type": "application/json"})
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code), error


def test_empty_prompt_of_a_base_model_is_an_answer_from_nothing(server: Server) -> None:
    assert server.client().completions.create(model="echo", prompt="").choices[0].text.endswith("and more")


def test_async_client_is_served(server: Server) -> None:
    import asyncio

    async def ask() -> str:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            return (await client.completions.create(model="echo", prompt="x")).choices[0].text

    assert asyncio.run(ask()) == "[x] and more"
