"""Function calls, schemas, log probabilities and penalties through the official client, on a scripted and a real model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from core.engines.base import Engine
from core.types import Message, Request, Tool, ToolCall
from core.workspace import Workspace
from serve.catalog import Catalog
from tests.serve.conftest import EchoEngine, Server, declare, running

ASK: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: Any = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": PARAMETERS}}
CLOCK: Any = {"type": "function", "function": {"name": "clock"}}
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}</tool_call>'
NAMED: Any = {"type": "function", "function": {"name": "weather"}}
Serve = Callable[..., Server]


@pytest.fixture
def scripted(serve: Serve, workspace: Workspace, engines: dict[str, EchoEngine]) -> Server:
    """Calls the weather function unless its result is there."""

    def answer(request: Request) -> str:
        if request.sampling.json_schema is not None:
            return '{"name": "weather", "arguments": {"city": "Paris"}}'
        return "It rains." if request.messages[-1].role == "tool" else f"Let me see. {CALL} {CALL}"

    engines["echo"] = EchoEngine(answer=answer)
    declare(workspace, "faq")
    return serve()


@pytest.fixture(scope="module")
def starter(starter_folder: Path) -> Iterator[Engine]:
    from core.engines.transformers import TransformersEngine

    engine = TransformersEngine(starter_folder, "smollm2-135m-instruct")
    yield engine
    engine.close()


class _Kept:
    """An engine that outlives the server of one test."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def close(self) -> None: ...


@pytest.fixture
def real(workspace: Workspace, starter: Engine) -> Iterator[Server]:
    declare(workspace, "faq", base_model="smollm2-135m-instruct", max_tokens=40)
    with running(Catalog(workspace, lambda _model: _Kept(starter))) as server:  # type: ignore[arg-type, return-value]
        yield server


def test_calls_come_out_beside_the_text(scripted: Server) -> None:
    choice = scripted.client().chat.completions.create(model="faq", messages=ASK, tools=[WEATHER]).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me see."
    calls: Any = choice.message.tool_calls
    assert [(c.type, c.function.name, json.loads(c.function.arguments)) for c in calls] == [
        ("function", "weather", {"city": "Paris"})
    ] * 2
    assert len({c.id for c in calls}) == 2


def test_streamed_calls_add_up(scripted: Server) -> None:
    with scripted.client().chat.completions.stream(model="faq", messages=ASK, tools=[WEATHER]) as stream:
        choice = stream.get_final_completion().choices[0]
    assert choice.finish_reason == "tool_calls"
    assert [c.function.name for c in choice.message.tool_calls or ()] == ["weather", "weather"]
    assert choice.message.content == "Let me see."


def test_parallel_calls_can_be_switched_off(scripted: Server) -> None:
    answer = scripted.client().chat.completions.create(
        model="faq", messages=ASK, tools=[WEATHER], parallel_tool_calls=False
    )
    assert len(answer.choices[0].message.tool_calls or ()) == 1


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_demanded_call_is_enforced_by_schema(scripted: Server, choice: Any) -> None:
    message = (
        scripted.client()
        .chat.completions.create(model="faq", messages=ASK, tools=[WEATHER, CLOCK], tool_choice=choice)
        .choices[0]
        .message
    )
    assert message.content is None
    assert [c.function.name for c in message.tool_calls or ()] == ["weather"]  # type: ignore[union-attr]


def test_tools_that_may_not_be_called_leave_text(scripted: Server) -> None:
    answer = scripted.client().chat.completions.create(model="faq", messages=ASK, tools=[WEATHER], tool_choice="none")
    assert answer.choices[0].message.tool_calls is None
    assert CALL in (answer.choices[0].message.content or "")


def test_result_of_a_call_goes_back_to_the_model(scripted: Server, engines: dict[str, EchoEngine]) -> None:
    client = scripted.client()
    first = client.chat.completions.create(model="faq", messages=ASK, tools=[WEATHER]).choices[0].message
    calls: Any = first.tool_calls
    results: Any = [{"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in calls]
    history: Any = [*ASK, first, *results]
    last = client.chat.completions.create(model="faq", messages=history, tools=[WEATHER]).choices[0]
    assert (last.message.content, last.finish_reason) == ("It rains.", "stop")
    seen = engines["echo"].requests[-1]
    assert seen.messages[1:] == (
        Message("assistant", "Let me see.", tuple(ToolCall(c.id, "weather", '{"city": "Paris"}') for c in calls)),
        *(Message("tool", "rain", tool_call_id=c.id) for c in calls),
    )
    assert seen.tools == (Tool("weather", "d", json.dumps(PARAMETERS)),)


def test_strict_function_is_not_called_with_arguments_that_break_its_schema(
    serve: Serve, workspace: Workspace, engines: dict[str, EchoEngine]
) -> None:
    engines["echo"] = EchoEngine(answer=lambda _: CALL.replace("city", "town"))
    declare(workspace, "faq")
    client = serve().client()
    strict: Any = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    loose = client.chat.completions.create(model="faq", messages=ASK, tools=[WEATHER])
    assert loose.choices[0].finish_reason == "tool_calls"
    held = client.chat.completions.create(model="faq", messages=ASK, tools=[strict])
    assert (held.choices[0].finish_reason, held.choices[0].message.tool_calls) == ("stop", None)


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_are_those_of_the_answers_tokens(real: Server, stream: bool) -> None:
    options: Any = {"model": "faq", "messages": ASK, "logprobs": True, "top_logprobs": 3, "max_tokens": 8}
    if stream:
        chunks = list(real.client().chat.completions.create(stream=True, **options))
        content = [lp for c in chunks if c.choices[0].logprobs for lp in c.choices[0].logprobs.content or ()]
        text = "".join(c.choices[0].delta.content or "" for c in chunks)
    else:
        choice = real.client().chat.completions.create(**options).choices[0]
        assert choice.logprobs is not None
        content, text = choice.logprobs.content or [], choice.message.content or ""
    assert b"".join(bytes(lp.bytes or ()) for lp in content).decode() == text
    assert len(content) == 8
    for lp in content:
        assert len(lp.top_logprobs) == 3
        # Greedy: the token is the likeliest (in bf16 two can be equally likely).
        assert lp.logprob == pytest.approx(lp.top_logprobs[0].logprob)
        assert sum(math.exp(t.logprob) for t in lp.top_logprobs) <= 1.0001


def test_logprobs_without_alternatives(real: Server) -> None:
    answer = real.client().chat.completions.create(model="faq", messages=ASK, logprobs=True, max_tokens=3)
    assert answer.choices[0].logprobs is not None
    assert [lp.top_logprobs for lp in answer.choices[0].logprobs.content or ()] == [[]] * 3


class Person(BaseModel):
    name: str
    age: int


class Kind(BaseModel):
    name: Literal["clerk", "cook"]


class Hire(BaseModel):
    kind: Kind
    salary: Literal[1, 2]


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_answer_follows_a_schema_however_it_is_sampled(real: Server, temperature: float) -> None:
    messages: Any = [{"role": "user", "content": "Write a poem about the sea."}]
    schema = {
        "type": "object",
        "properties": {"kind": {"enum": ["a", "b"]}, "count": {"type": "integer", "minimum": 3, "maximum": 12}},
        "required": ["kind", "count"],
        "additionalProperties": False,
    }
    answer = real.client().chat.completions.create(
        model="faq",
        messages=messages,
        n=4,
        seed=1,
        temperature=temperature,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}},
    )
    for choice in answer.choices:
        value = json.loads(choice.message.content or "")
        assert (set(value), choice.finish_reason) == ({"kind", "count"}, "stop")
        assert value["kind"] in ("a", "b")
        assert 3 <= value["count"] <= 12


def test_parse_helper_of_the_client_gets_its_model(real: Server) -> None:
    messages: Any = [{"role": "user", "content": "Name a person and an age."}]
    answer = real.client().chat.completions.parse(model="faq", messages=messages, response_format=Person)
    assert isinstance(answer.choices[0].message.parsed, Person)


@pytest.mark.parametrize("stream", [False, True])
def test_json_object_is_an_object(real: Server, stream: bool) -> None:
    messages: Any = [{"role": "user", "content": "Give a person as JSON with name and age."}]
    options: Any = {"model": "faq", "messages": messages, "max_tokens": 200, "response_format": {"type": "json_object"}}
    answer = real.client().chat.completions.create(**options, stream=stream)
    if stream:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in answer)
    else:
        text = answer.choices[0].message.content
    assert isinstance(json.loads(text), dict)


def test_demanded_call_of_a_function_with_models_in_models(real: Server) -> None:
    # Of two functions, so that the references of the second are moved.
    tools: Any = [CLOCK, openai.pydantic_function_tool(Hire)]
    choice: Any = {"type": "function", "function": {"name": "Hire"}}
    for demanded in (choice, {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [choice]}}):
        answer = real.client().chat.completions.create(model="faq", messages=ASK, tools=tools, tool_choice=demanded)
        (call,) = answer.choices[0].message.tool_calls or ()
        assert Hire.model_validate_json(call.function.arguments)  # type: ignore[union-attr]


def test_only_allowed_functions_are_shown_and_called(scripted: Server, engines: dict[str, EchoEngine]) -> None:
    some: Any = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "clock"}}]}
    answer = scripted.client().chat.completions.create(
        model="faq",
        messages=ASK,
        tools=[WEATHER, CLOCK],
        tool_choice={"type": "allowed_tools", "allowed_tools": some},
    )
    assert answer.choices[0].message.tool_calls is None
    assert [tool.name for tool in engines["echo"].requests[-1].tools] == ["clock"]


@pytest.mark.parametrize("arguments", ["", '{"city": "Par', "[1]", "null"])
def test_call_that_went_wrong_may_come_back(scripted: Server, engines: dict[str, EchoEngine], arguments: str) -> None:
    call: Any = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    history: Any = [
        *ASK,
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "assistant", "refusal": "No!", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "no JSON"},
    ]
    scripted.client().chat.completions.create(model="faq", messages=history, tools=[WEATHER])
    assert engines["echo"].requests[-1].messages[1:3] == (
        Message("assistant", "No."),
        Message("assistant", "No!", (ToolCall("c", "weather", arguments),)),
    )


def test_demanded_call_on_a_model_that_knows_no_tools(real: Server) -> None:
    answer = real.client().chat.completions.create(model="faq", messages=ASK, tools=[WEATHER, CLOCK], tool_choice=NAMED)
    (call,) = answer.choices[0].message.tool_calls or ()
    assert set(json.loads(call.function.arguments)) == {"city"}  # type: ignore[union-attr]


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_demanded_call_is_streamed_in_pieces(real: Server, api: str) -> None:
    # Whatever the model makes of it, the call has an end.
    properties = {"city": {"enum": ["Paris", "Oslo"]}, "tomorrow": {"type": "boolean"}}
    parameters = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
    function: Any = {"name": "weather", "parameters": parameters}
    client, options = real.client(), {"model": "faq", "stream": True}
    if api == "chat":
        tool: Any = {"type": "function", "function": function}
        chunks: Any = client.chat.completions.create(messages=ASK, tools=[tool], tool_choice=NAMED, **options)
        pieces = [call for c in chunks for call in c.choices[0].delta.tool_calls or ()]
        assert (pieces[0].function.name, pieces[0].function.arguments) == ("weather", "")
        deltas = [piece.function.arguments for piece in pieces[1:]]
    else:
        choice = {"type": "function", "name": "weather"}
        tool = {"type": "function", **function}
        events: Any = client.responses.create(input=ASK, tools=[tool], tool_choice=choice, **options)
        deltas = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    # Two keys and two values are more than one token.
    assert len(deltas) > 1
    assert set(json.loads("".join(deltas))) == {*properties}


def test_bias_and_penalties_move_the_answer(real: Server) -> None:
    client = real.client()
    plain = client.chat.completions.create(model="faq", messages=ASK, logprobs=True, max_tokens=1)
    banned = client.chat.completions.create(
        model="faq", messages=ASK, max_tokens=6, logit_bias={"504": -100, "2683": -100}, temperature=0
    )
    assert banned.choices[0].message.content
    loud = client.chat.completions.create(model="faq", messages=ASK, logit_bias={"28": 100}, max_tokens=4)
    assert loud.choices[0].message.content == ",,,,"
    varied = client.chat.completions.create(
        model="faq", messages=ASK, logit_bias={"28": 15}, presence_penalty=2, frequency_penalty=2, max_tokens=30
    )
    assert 0 < (varied.choices[0].message.content or "").count(",") < 30
    assert plain.choices[0].logprobs


def test_bias_on_a_token_the_model_lacks_is_refused(real: Server) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        real.client().chat.completions.create(model="faq", messages=ASK, logit_bias={"49152": 1})
    assert (caught.value.param, caught.value.code) == ("logit_bias", "unsupported_value")
