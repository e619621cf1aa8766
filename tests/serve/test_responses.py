"""The responses API through the official client, which checks every object and event."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from core.errors import EngineError
from core.types import Message, Request, Source, ToolCall
from core.workspace import Workspace
from serve.response_output import citations
from serve.response_schemas import ResponseRequest
from serve.responses import _response
from tests.serve.conftest import EchoEngine, Server, declare, wait_until

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: Any = {"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": True}
SEARCH = {"type": "file_search", "vector_store_ids": ["faq"]}
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}</tool_call>'
Serve = Callable[..., Server]


def allowed(*tools: Any) -> Any:
    return {"type": "allowed_tools", "mode": "auto", "tools": [*tools]}


def _answer(request: Request) -> str:
    last = request.messages[-1]
    if request.tools and last.role == "user":
        return CALL
    return f"echo: {last.content}"


@pytest.fixture
def server(serve: Serve, workspace: Workspace, engines: dict[str, EchoEngine]) -> Server:
    declare(workspace, "faq", max_tokens=9)
    engines["echo"] = EchoEngine(answer=_answer)
    return serve()


def test_text_in_text_out(server: Server, engines: dict[str, EchoEngine]) -> None:
    response = server.client().responses.create(model="faq", input="hello you", instructions="Be kind.")
    assert (response.status, response.output_text, response.model) == ("completed", "echo: hello you", "faq")
    assert (response.instructions, response.error, response.incomplete_details) == ("Be kind.", None, None)
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (4, 3, 7)
    assert engines["echo"].requests[-1].messages == (Message("system", "Be kind."), Message("user", "hello you"))


def test_items_in(server: Server, engines: dict[str, EchoEngine]) -> None:
    items: Any = [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "c", "annotations": []}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "42"},
        {"role": "user", "content": "d"},
    ]
    server.client().responses.create(model="faq", input=items)
    assert engines["echo"].requests[-1].messages == (
        Message("system", "Be short."),
        Message("user", "a\nb"),
        Message("assistant", "c", (ToolCall("c1", "f", "{}"),)),
        Message("tool", "42", tool_call_id="c1"),
        Message("user", "d"),
    )


def test_sampling_reaches_the_engine_and_comes_back(server: Server, engines: dict[str, EchoEngine]) -> None:
    response = server.client().responses.create(
        model="faq", input="hi", temperature=0.5, top_p=0.9, max_output_tokens=3, metadata={"a": "b"}, user="u"
    )
    sampling = engines["echo"].requests[-1].sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (0.5, 0.9, 3)
    assert (response.temperature, response.top_p, response.max_output_tokens) == (0.5, 0.9, 3)
    assert response.metadata == {"a": "b"}


def test_cut_answer_is_incomplete(server: Server) -> None:
    response = server.client().responses.create(model="faq", input="one two three", max_output_tokens=2)
    assert (response.status, response.output_text) == ("incomplete", "echo: one")
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


def test_events_come_in_order_and_add_up(server: Server) -> None:
    events = list(server.client().responses.create(model="faq", input="hello you", stream=True))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    last = events[-1]
    assert last.type == "response.completed"
    assert text == last.response.output_text == "echo: hello you"
    assert last.response.usage is not None


def test_streaming_helper_of_the_client_accumulates(server: Server) -> None:
    with server.client().responses.stream(model="faq", input="hello") as stream:
        final = stream.get_final_response()
    assert final.output_text == "echo: hello"


def test_conversation_goes_on_from_a_stored_response(server: Server, engines: dict[str, EchoEngine]) -> None:
    client = server.client()
    first = client.responses.create(model="faq", input="one", instructions="Only once.")
    second = client.responses.create(model="faq", input="two", previous_response_id=first.id)
    third = client.responses.create(model="faq", input="three", previous_response_id=second.id, stream=True)
    list(third)
    assert second.previous_response_id == first.id
    assert [m.content for m in engines["echo"].requests[-1].messages] == [
        *("one", "echo: one", "two", "echo: two", "three"),
    ]


def test_stored_response_is_got_listed_and_deleted(server: Server) -> None:
    client = server.client()
    made = client.responses.create(model="faq", input=[{"role": "user", "content": t} for t in ("a", "b", "c")])
    assert client.responses.retrieve(made.id) == made
    items = client.responses.input_items.list(made.id, order="asc", limit=2)
    assert [item.content[0].text for item in items.data] == ["a", "b"]  # type: ignore[union-attr]
    assert items.has_more
    assert [item.content[0].text for item in client.responses.input_items.list(made.id)] == ["c", "b", "a"]  # type: ignore[union-attr]
    after = client.responses.input_items.list(made.id, order="asc", after=items.last_id)
    assert [item.content[0].text for item in after.data] == ["c"]  # type: ignore[union-attr]
    client.responses.delete(made.id)
    for call in (client.responses.retrieve, client.responses.delete, client.responses.input_items.list):
        with pytest.raises(openai.NotFoundError) as caught:
            call(made.id)
        assert caught.value.code == "response_not_found"
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="faq", input="on", previous_response_id=made.id)
    assert refused.value.code == "previous_response_not_found"


def test_search_tool_comes_back_with_all_that_was_asked_of_it() -> None:
    asked: dict[str, Any] = {
        "type": "file_search",
        "vector_store_ids": ["vs_1"],
        "filters": {"type": "eq", "key": "n", "value": 3},
        "max_num_results": 2,
        "ranking_options": {"ranker": "auto", "score_threshold": 0.1},
    }
    body = ResponseRequest.model_validate({"model": "faq", "input": "hi", "tools": [asked]})
    assert _response(body)["tools"] == [asked]


def test_unknown_parameter_of_a_stored_response_is_refused(server: Server) -> None:
    client = server.client()
    made = client.responses.create(model="faq", input="hi")
    calls: list[Any] = [client.responses.retrieve, client.responses.input_items.list]
    for call in calls:
        with pytest.raises(openai.BadRequestError) as refused:
            call(made.id, include=["file_search_call.results"])
        assert refused.value.code == "unknown_parameter"
    with pytest.raises(openai.BadRequestError):
        client.responses.retrieve(made.id, starting_after=1)


def test_field_of_a_text_part_that_would_be_ignored_is_refused(server: Server) -> None:
    client = server.client()
    part = {"text": "hi", "cache_control": {}}
    items: Any = [{"role": "user", "content": [{"type": "input_text", **part}]}]
    messages: Any = [{"role": "user", "content": [{"type": "text", **part}]}]
    with pytest.raises(openai.BadRequestError, match="cache_control"):
        client.responses.create(model="faq", input=items)
    with pytest.raises(openai.BadRequestError, match="cache_control"):
        client.chat.completions.create(model="faq", messages=messages)


def test_response_that_is_not_to_be_stored_is_not(server: Server) -> None:
    client = server.client()
    made = client.responses.create(model="faq", input="hi", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_responses_outlive_the_server(serve: Serve, workspace: Workspace) -> None:
    declare(workspace, "faq")
    made = serve().client().responses.create(model="faq", input="hi")
    assert serve().client().responses.retrieve(made.id).output_text == "echo: hi"


@pytest.mark.parametrize("stream", [False, True])
def test_function_call_and_its_result(server: Server, stream: bool) -> None:
    client = server.client()
    if stream:
        events = list(client.responses.create(model="faq", input="Weather?", tools=[WEATHER], stream=True))
        kinds = [e.type for e in events if e.type.startswith("response.function_call")]
        assert kinds == ["response.function_call_arguments.delta", "response.function_call_arguments.done"]
        assert events[-1].type == "response.completed"
        first = events[-1].response
    else:
        first = client.responses.create(model="faq", input="Weather?", tools=[WEATHER])
    (call,) = first.output
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments), first.output_text) == ("weather", {"city": "Paris"}, "")
    result: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "rain"}]
    second = client.responses.create(model="faq", input=result, previous_response_id=first.id, tools=[WEATHER])
    assert second.output_text == "echo: rain"


def test_only_allowed_functions_are_shown(server: Server, engines: dict[str, EchoEngine]) -> None:
    clock: Any = {"type": "function", "name": "clock", "parameters": None, "strict": False}
    choice = allowed({"type": "function", "name": "clock"})
    response = server.client().responses.create(model="faq", input="hi", tools=[WEATHER, clock], tool_choice=choice)
    assert [tool.name for tool in engines["echo"].requests[-1].tools] == ["clock"]
    assert response.model_dump()["tool_choice"] == choice
    assert len(response.tools) == 2


def test_answer_in_json(server: Server, engines: dict[str, EchoEngine]) -> None:
    engines["echo"] = EchoEngine(answer=lambda _: '{"a": 1}')
    schema: Any = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    shape: Any = {"format": {"type": "json_schema", "name": "x", "schema": schema, "strict": True}}
    response = server.client().responses.create(model="faq", input="hi", text=shape)
    assert response.text is not None
    assert response.text.format == response.text.format.model_validate(shape["format"])  # type: ignore[union-attr]
    assert json.loads(response.output_text) == {"a": 1}


def test_log_probabilities_are_included_on_demand(server: Server) -> None:
    response = server.client().responses.create(
        model="faq", input="hi", include=["message.output_text.logprobs"], top_logprobs=1
    )
    part: Any = response.output[0].content[0]  # type: ignore[union-attr]
    assert [lp.token for lp in part.logprobs] == ["echo:", " hi"]
    plain: Any = server.client().responses.create(model="faq", input="hi").output[0].content[0]  # type: ignore[union-attr]
    assert plain.logprobs == []


def test_citations_stand_at_their_marks() -> None:
    sources = [Source(1, "d1", "One", "x", 1.0), Source(2, "d2", "", "y", 0.5)]
    assert citations("See [2], not [7].", sources) == [
        {"type": "file_citation", "index": 4, "file_id": "d2", "filename": "d2"}
    ]
    assert [c["index"] for c in citations("Plain.", sources)] == [6, 6]
    assert citations("[1]", []) == []


@pytest.mark.usefixtures("encoder_folder")
@pytest.mark.parametrize("model", ["docs", "docs:base"])
def test_retrieval_shows_as_file_search_and_citations(
    serve: Serve, workspace: Workspace, engines: dict[str, EchoEngine], tmp_path: Path, model: str
) -> None:
    from rag.ingest import ingest

    (tmp_path / "bees.txt").write_text("Bees make honey from nectar.", encoding="utf-8")
    declare(workspace, "docs", route="rag", top_k=1)
    folder = workspace.use_case("docs")
    ingest(folder, folder.settings(), workspace, [tmp_path / "bees.txt"])
    engines["echo"] = EchoEngine(answer=lambda _: "Honey [1].")
    client = serve().client()
    options: Any = {"model": model, "input": "What do bees make?", "include": ["file_search_call.results"]}
    if model == "docs:base":
        options["tools"] = [{"type": "file_search", "vector_store_ids": ["docs"]}]
    events = list(client.responses.create(**options, stream=True))
    whole = client.responses.create(**options)
    last = events[-1]
    assert last.type == "response.completed"
    for response in (whole, last.response):
        search, message = response.output
        assert search.type == "file_search_call"
        assert (search.status, search.queries) == ("completed", ["What do bees make?"])
        assert search.results is not None
        assert search.results[0].text == "Bees make honey from nectar."
        assert message.type == "message"
        (citation,) = message.content[0].annotations  # type: ignore[union-attr]
        assert citation.type == "file_citation"
        assert (citation.index, citation.file_id) == (6, search.results[0].file_id)
    kinds = [event.type for event in events]
    assert kinds.count("response.output_text.annotation.added") == 1
    steps = [kinds.index(f"response.file_search_call.{s}") for s in ("in_progress", "searching", "completed")]
    assert steps == sorted(steps)
    # Without its results, which come with the answer's end, the search is done before the message begins.
    plain = list(client.responses.create(**{**options, "include": []}, stream=True))
    items = [(e.type, e.output_index) for e in plain if "output_item" in e.type]  # type: ignore[union-attr]
    assert items == [(f"response.output_item.{what}", at) for at in range(2) for what in ("added", "done")]
    assert client.responses.create(model="docs", input="again?", previous_response_id=whole.id).output_text


def test_failure_in_mid_stream_is_a_failed_response(
    serve: Serve, workspace: Workspace, engines: dict[str, EchoEngine]
) -> None:
    declare(workspace, "faq")
    engines["echo"] = EchoEngine(error=EngineError("/secret/path"), error_after=1)
    events = list(serve().client().responses.create(model="faq", input="hi", stream=True))
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.status == "failed"
    assert last.response.error is not None
    assert "secret" not in last.response.error.message


def test_client_that_leaves_cancels_the_answer(
    serve: Serve, workspace: Workspace, engines: dict[str, EchoEngine]
) -> None:
    declare(workspace, "faq", max_tokens=400)
    slow = engines["echo"] = EchoEngine(delay_s=0.02)
    stream = serve().client().responses.create(model="faq", input="word " * 200, stream=True)
    for event in stream:
        if event.type == "response.output_text.delta":
            break
    stream.close()
    wait_until(lambda: slow.running == 0)
    assert slow.cancelled == 1


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input": []}, "input", "invalid_value"),
        ({"input": [{"role": "system", "content": "x"}]}, "input", "invalid_value"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "u"}]}]},
            "input[0].content",
            "unsupported_value",
        ),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]", "unsupported_value"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "input", "invalid_value"),
        ({"reasoning": {"effort": "low"}}, "reasoning", "unsupported_parameter"),
        ({"conversation": "c"}, "conversation", "unsupported_parameter"),
        ({"background": True}, "background", "unsupported_value"),
        ({"truncation": "auto"}, "truncation", "unsupported_value"),
        ({"include": ["reasoning.encrypted_content"]}, "include[0]", "unsupported_value"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_value"),
        ({"tools": [{"type": "file_search"}]}, "tools[0]", "invalid_value"),
        ({"tools": [{"type": "file_search", "vector_store_ids": ["other"]}]}, "tools", "unsupported_value"),
        ({"tools": [{"type": "function"}]}, "tools[0]", "missing_required_parameter"),
        ({"tools": [SEARCH, SEARCH]}, "tools", "unsupported_value"),
        ({"tools": [{**WEATHER, "parameters": {"type": "array"}}]}, "tools[0].parameters", "invalid_value"),
        ({"tool_choice": {"type": "mcp"}}, "tool_choice", "unsupported_value"),
        ({"tools": [WEATHER], "tool_choice": {"type": "file_search"}}, "tool_choice", "invalid_value"),
        ({"tools": [WEATHER], "tool_choice": allowed({"type": "file_search"})}, "tool_choice", "invalid_value"),
        (
            {"tools": [WEATHER], "tool_choice": allowed({"type": "function", "name": "f"})},
            "tool_choice",
            "invalid_value",
        ),
        ({"tools": [WEATHER], "tool_choice": allowed({"type": "mcp"})}, "tool_choice", "unsupported_value"),
        ({"text": {"format": {"type": "text", "name": "x"}}}, "text.format", "invalid_value"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format", "invalid_value"),
        ({"text": {"verbosity": "low"}}, "text.verbosity", "unknown_parameter"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "previous_response_not_found"),
        ({"model": "nobody"}, "model", "model_not_found"),
        ({"banana": 1}, "banana", "unknown_parameter"),
    ],
)
def test_what_cannot_be_honoured_is_refused(server: Server, fields: dict[str, Any], param: str, code: str) -> None:
    response = httpx.post(f"{server.url}/v1/responses", json={"model": "faq", "input": "hi", **fields})
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code), error


def test_another_keys_responses_are_not_there(server: Server, serve: Serve, workspace: Workspace) -> None:
    from serve.response_store import Responses
    from serve.state import State

    state = State(workspace.path)
    store = Responses(state)
    store.add("key-a", {"id": "resp_a", "created_at": 2_000_000_000, "output": [], "previous_response_id": None}, [])
    assert store.get("key-a", "resp_a") is not None
    assert store.get("key-b", "resp_a") is None
    assert not store.delete("key-b", "resp_a")
    assert store.conversation("key-b", "resp_a") is None
    state.close()


def test_old_responses_are_forgotten(workspace: Workspace) -> None:
    from serve.response_store import Responses
    from serve.state import State

    state = State(workspace.path)
    store = Responses(state)
    store.add("k", {"id": "resp_old", "created_at": 1_000, "output": [], "previous_response_id": None}, [])
    store.add("k", {"id": "resp_new", "created_at": 2_000_000_000, "output": [], "previous_response_id": None}, [])
    assert store.get("k", "resp_old") is None
    assert store.get("k", "resp_new") is not None
    state.close()
