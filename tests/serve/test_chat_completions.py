"""Chat completions through the official client, which checks every response against OpenAI's models."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from core.types import Message, Request
from core.workspace import Workspace
from tests.serve.conftest import EchoEngine, Server, declare

ASK: Any = [{"role": "user", "content": "one two three"}]
Serve = Callable[..., Server]


@pytest.fixture
def server(serve: Serve, workspace: Workspace) -> Server:
    declare(workspace, "faq", instruction="Be kind.", max_tokens=7)
    return serve()


def test_answer_carries_text_reason_and_usage(server: Server) -> None:
    answer = server.client().chat.completions.create(model="faq", messages=ASK)
    assert answer.choices[0].message.content == "echo: one two three"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "faq"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (5, 4, 9)
    assert answer.id.startswith("chatcmpl-")
    assert answer.system_fingerprint is not None


def test_stream_has_role_pieces_reason_and_no_usage_unless_asked(server: Server) -> None:
    chunks = list(server.client().chat.completions.create(model="faq", messages=ASK, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "echo: one two three"
    assert [c.choices[0].finish_reason for c in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert all(c.usage is None and "usage" not in c.model_fields_set for c in chunks)
    assert len({(c.id, c.created) for c in chunks}) == 1


def test_stream_ends_with_usage_chunk_without_choices_when_asked(server: Server) -> None:
    options: Any = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = server.client().chat.completions.create(model="faq", messages=ASK, **options)
    assert last.choices == []
    assert last.usage.total_tokens == 9
    assert all(c.usage is None and "usage" in c.model_fields_set for c in chunks)


def test_stream_on_the_wire_is_data_lines_and_done(server: Server) -> None:
    body = {"model": "faq", "messages": ASK, "stream": True}
    response = httpx.post(f"{server.url}/v1/chat/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = response.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith('data: {"id":"chatcmpl-') for event in events[:-2])


def test_accumulating_stream_helper_of_the_client_works(server: Server) -> None:
    with server.client().chat.completions.stream(model="faq", messages=ASK) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "echo: one two three"


def test_sampling_reaches_the_engine(server: Server, engines: dict[str, EchoEngine]) -> None:
    server.client().chat.completions.create(
        model="faq", messages=ASK, max_tokens=2, temperature=0.5, top_p=0.9, seed=11, stop=["x", "y"]
    )
    sampling = engines["echo"].requests[-1].sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p) == (2, 0.5, 0.9)
    assert (sampling.seed, sampling.stop) == (11, ("x", "y"))


def test_defaults_are_greedy_and_the_use_cases_length(server: Server, engines: dict[str, EchoEngine]) -> None:
    server.client().chat.completions.create(model="faq", messages=ASK)
    sampling = engines["echo"].requests[-1].sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p) == (7, 0.0, 1.0)
    assert (sampling.seed, sampling.stop) == (None, ())


def test_cut_answer_says_length(server: Server) -> None:
    answer = server.client().chat.completions.create(model="faq", messages=ASK, max_completion_tokens=2)
    assert answer.choices[0].message.content == "echo: one"
    assert answer.choices[0].finish_reason == "length"


def test_messages_reach_the_engine_in_the_words_of_the_use_case(server: Server, engines: dict[str, EchoEngine]) -> None:
    messages: Any = [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "ann"},
        {"role": "assistant", "content": "c", "refusal": None, "sources": [{"number": 1}]},
        {"role": "user", "content": "d"},
    ]
    server.client().chat.completions.create(model="faq", messages=messages)
    assert engines["echo"].requests[-1].messages == (
        Message("system", "Be kind.\n\nBe short."),
        Message("user", "a\nb"),
        Message("assistant", "c"),
        Message("user", "d"),
    )


def test_answer_can_be_sent_back_as_history(server: Server) -> None:
    client = server.client()
    first = client.chat.completions.create(model="faq", messages=ASK).choices[0].message
    history: Any = [*ASK, first, {"role": "user", "content": "again"}]
    assert client.chat.completions.create(model="faq", messages=history).choices[0].message.content == "echo: again"


def test_n_choices_differ_by_seed_and_share_the_prompts_usage(server: Server, engines: dict[str, EchoEngine]) -> None:
    def numbered(request: Request) -> str:
        return f"seed {request.sampling.seed}"

    engines["echo"] = EchoEngine(answer=numbered)
    answer = server.client().chat.completions.create(model="faq", messages=ASK, n=3, seed=5, temperature=1)
    assert [(c.index, c.message.content) for c in answer.choices] == [(0, "seed 5"), (1, "seed 6"), (2, "seed 7")]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 6)


def test_streamed_n_choices_are_told_apart_by_index(server: Server) -> None:
    texts = {0: "", 1: ""}
    for chunk in server.client().chat.completions.create(model="faq", messages=ASK, n=2, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == {0: "echo: one two three", 1: "echo: one two three"}


@pytest.mark.parametrize("stream", [False, True])
def test_sixteen_clients_get_their_own_answers(server: Server, engines: dict[str, EchoEngine], stream: bool) -> None:
    # All sixteen are under way at once, or none gets its answer.
    together = threading.Barrier(16)
    engines["echo"] = EchoEngine(answer=lambda r: f"echo: {r.messages[-1].content}" if together.wait(300) >= 0 else "")

    def ask(number: int) -> str:
        messages: Any = [{"role": "user", "content": f"client {number} says {number * number}"}]
        answer = server.client().chat.completions.create(model="faq", messages=messages, stream=stream, max_tokens=99)
        if not stream:
            return str(answer.choices[0].message.content)
        return "".join(chunk.choices[0].delta.content or "" for chunk in answer)

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(48)))
    assert answers == [f"echo: client {n} says {n * n}" for n in range(48)]
    assert engines["echo"].most_running == 16


def test_async_client_is_served(server: Server) -> None:
    import asyncio

    import openai

    async def ask() -> str:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            answer = await client.chat.completions.create(model="faq", messages=ASK)
            return str(answer.choices[0].message.content)

    assert asyncio.run(ask()) == "echo: one two three"


def test_accepted_fields_without_effect(server: Server) -> None:
    answer = server.client().chat.completions.create(
        model="faq",
        messages=ASK,
        user="u",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        logprobs=False,
        presence_penalty=0,
        frequency_penalty=0.0,
        response_format={"type": "text"},
        n=None,
        stop=None,
    )
    assert answer.choices[0].message.content == "echo: one two three"


def test_unicode_comes_back_whole(server: Server) -> None:
    text = "Zoë 😀 東京 \u2028 \x00 é"
    answer = server.client().chat.completions.create(
        model="faq", messages=[{"role": "user", "content": text}], max_tokens=50
    )
    assert answer.choices[0].message.content == f"echo: {text}"
