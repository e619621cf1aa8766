"""Arguments of function calls in pieces, as they are decoded: chat completions and responses through the official client."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from core.engines.remote import RemoteEngine
from core.engines.scripted import ScriptedEngine
from core.types import Request
from core.workspace import Workspace
from serve.catalog import Catalog
from tests.core.engines.endpoint import Endpoint, begin_stream, event, serving
from tests.serve.conftest import EchoEngine, Server, declare, running

ASK: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS, "strict": True}}
LOOSE: Any = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
NAMED: Any = {"type": "function", "function": {"name": "weather"}}
ITEM: Any = {"type": "function", "name": "weather", "parameters": PARAMETERS}
BARE = '{"name": "weather", "arguments": {"city": "Paris", "days": 3}}'
CALL = f"<tool_call>{BARE}</tool_call>"
WORDS = ['{"city":', ' "Paris",', ' "days":', " 3}"]
"""The scripted engine's tokens of the arguments."""
Serve = Callable[..., Server]


@pytest.fixture
def scripted(serve: Serve, workspace: Workspace, engines: dict[str, EchoEngine]) -> Server:
    def answer(request: Request) -> str:
        return BARE if request.sampling.json_schema is not None else f"Let me see. {CALL} {CALL}"

    engines["echo"] = EchoEngine(answer=answer)
    declare(workspace, "faq")
    return serve()


def _pieces(chunks: Iterator[Any]) -> list[dict[str, Any]]:
    """The pieces of calls as they stand in the chunks, one a chunk."""
    lists = [c.choices[0].delta.tool_calls for c in chunks if c.choices and c.choices[0].delta.tool_calls]
    assert all(len(pieces) == 1 for pieces in lists)
    return [pieces[0].model_dump(exclude_unset=True) for pieces in lists]


@pytest.mark.parametrize(
    ("options", "calls"), [({"tools": [LOOSE]}, 2), ({"tools": [WEATHER], "tool_choice": NAMED}, 1)]
)
def test_arguments_come_piece_by_piece_behind_the_name(scripted: Server, options: Any, calls: int) -> None:
    stream = scripted.client().chat.completions.create(model="faq", messages=ASK, stream=True, **options)
    pieces = _pieces(stream)
    assert len(pieces) == calls * (1 + len(WORDS))
    for index in range(calls):
        first, *rest = [piece for piece in pieces if piece["index"] == index]
        head = {"index": index, "id": first["id"], "type": "function"}
        assert first == {**head, "function": {"name": "weather", "arguments": ""}}
        assert rest == [{"index": index, "function": {"arguments": word}} for word in WORDS]


def test_strict_function_that_need_not_be_called_is_called_once_its_arguments_are_whole(scripted: Server) -> None:
    stream = scripted.client().chat.completions.create(model="faq", messages=ASK, stream=True, tools=[WEATHER])
    assert [p["function"]["arguments"] for p in _pieces(stream)] == ["", "".join(WORDS)] * 2


def test_streaming_helper_of_the_client_puts_them_together(scripted: Server) -> None:
    with scripted.client().chat.completions.stream(model="faq", messages=ASK, tools=[LOOSE]) as stream:
        deltas = [e.arguments_delta for e in stream if e.type == "tool_calls.function.arguments.delta"]
        choice = stream.get_final_completion().choices[0]
    assert [delta for delta in deltas if delta] == WORDS * 2
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me see.")
    calls: Any = choice.message.tool_calls
    assert [(c.function.name, json.loads(c.function.arguments)) for c in calls] == [
        ("weather", {"city": "Paris", "days": 3})
    ] * 2
    whole = scripted.client().chat.completions.create(model="faq", messages=ASK, tools=[LOOSE]).choices[0].message
    assert [c.function.arguments for c in whole.tool_calls or ()] == [c.function.arguments for c in calls]  # type: ignore[union-attr]


@pytest.mark.parametrize("stream", [False, True])
def test_call_that_is_cut_off_says_so(scripted: Server, stream: bool) -> None:
    options: Any = {"model": "faq", "messages": ASK, "tools": [LOOSE], "max_tokens": 8}
    answer = scripted.client().chat.completions.create(**options, stream=stream)
    if stream:
        chunks = list(answer)
        arguments = "".join(piece["function"]["arguments"] for piece in _pieces(iter(chunks)))
        reason = chunks[-1].choices[0].finish_reason
    else:
        (call,) = answer.choices[0].message.tool_calls
        arguments, reason = call.function.arguments, answer.choices[0].finish_reason
    assert (arguments, reason) == ('{"city": "Paris",', "length")


def test_items_of_a_response_follow_one_another(scripted: Server) -> None:
    options: Any = {"tools": [ITEM], "stream": True, "include": ["message.output_text.logprobs"]}
    events: Any = list(scripted.client().responses.create(model="faq", input="Weather?", **options))
    bounds = [(e.type.rpartition(".")[2], e.output_index) for e in events if ".output_item." in e.type]
    assert bounds == [(what, at) for at in range(3) for what in ("added", "done")]
    final = events[-1].response
    assert [item.type for item in final.output] == ["message", "function_call", "function_call"]
    assert final.output_text == "Let me see."
    # Tokens of a call are none of the text's.
    assert "".join(lp.token for lp in final.output[0].content[0].logprobs) == "Let me see."
    assert final.completed_at >= final.created_at


def test_responses_send_each_piece_as_an_event(scripted: Server) -> None:
    events: Any = list(scripted.client().responses.create(model="faq", input="Weather?", tools=[ITEM], stream=True))
    own = [e for e in events if e.type.startswith("response.function_call")]
    one = [*["response.function_call_arguments.delta"] * len(WORDS), "response.function_call_arguments.done"]
    assert [e.type for e in own] == one * 2
    assert [e.delta for e in own if e.type.endswith("delta")] == WORDS * 2
    assert [e.arguments for e in own if e.type.endswith("done")] == ["".join(WORDS)] * 2
    added = [e.item for e in events if e.type == "response.output_item.added" and e.item.type == "function_call"]
    assert [(item.name, item.arguments, item.status) for item in added] == [("weather", "", "in_progress")] * 2
    final = events[-1].response
    message, *calls = final.output
    assert message.type == "message"
    assert [(call.id, call.arguments, call.status) for call in calls] == [
        (item.id, "".join(WORDS), "completed") for item in added
    ]
    with scripted.client().responses.stream(model="faq", input="Weather?", tools=[ITEM]) as stream:
        last = stream.get_final_response()
    assert [item.arguments for item in last.output if item.type == "function_call"] == ["".join(WORDS)] * 2


def test_response_whose_call_is_cut_off_is_incomplete(scripted: Server) -> None:
    client = scripted.client()
    response = client.responses.create(model="faq", input="Weather?", tools=[ITEM], max_output_tokens=8)
    assert response.incomplete_details is not None
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    call: Any = response.output[-1]
    assert (call.type, call.status, call.arguments) == ("function_call", "incomplete", '{"city": "Paris",')


UPSTREAM: Any = [
    {"index": 0, "id": "call_up", "type": "function", "function": {"name": "weather", "arguments": ""}},
    *({"index": 0, "function": {"arguments": piece}} for piece in ('{"ci', 'ty": "Pa', 'ris", "days": 3}')),
    {"index": 1, "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo", "days": 1}'}},
]


def _streams(handler: BaseHTTPRequestHandler, _body: dict[str, Any]) -> bool:
    begin_stream(handler)
    for piece in UPSTREAM:
        event(handler, {"choices": [{"delta": {"tool_calls": [piece]}, "finish_reason": None}]})
    event(handler, {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]})
    event(handler, {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}})
    event(handler, "[DONE]")
    return True


@pytest.fixture
def upstream() -> Iterator[Endpoint]:
    with serving(ScriptedEngine(lambda _: "")) as endpoint:
        endpoint.trouble = _streams
        yield endpoint


@pytest.fixture
def remote(workspace: Workspace, upstream: Endpoint) -> Iterator[Server]:
    declare(workspace, "faq")
    catalog = Catalog(workspace, lambda model: RemoteEngine(upstream.url, model))
    with running(catalog) as server:
        yield server


def test_pieces_of_an_endpoint_pass_as_they_are(remote: Server) -> None:
    pieces = _pieces(remote.client().chat.completions.create(model="faq", messages=ASK, stream=True, tools=[LOOSE]))
    assert pieces[:-1] == UPSTREAM[:-1]
    # A call that came without an id cannot be answered by one; it gets one here.
    assert pieces[-1].pop("id").startswith("call_")
    assert pieces[-1] == UPSTREAM[-1]


def test_pieces_of_an_endpoint_are_events_of_a_response(remote: Server) -> None:
    events: Any = list(remote.client().responses.create(model="faq", input="?", tools=[ITEM], stream=True))
    deltas = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    assert deltas == [piece["function"]["arguments"] for piece in UPSTREAM if piece["function"]["arguments"]]
    done = [(e.output_index, json.loads(e.arguments)["city"]) for e in events if e.type.endswith("arguments.done")]
    assert done == [(0, "Paris"), (1, "Oslo")]
