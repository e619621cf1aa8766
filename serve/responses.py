"""/v1/responses: answers that are kept, gone on from, and streamed as typed events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response

from core import types
from core.types import Message, Sampling
from serve.access import caller_of, check_model
from serve.answering import Answering, Documents, answering, new_id, nobody_reads
from serve.catalog import Catalog
from serve.errors import ERRORS, ApiError, as_api_error
from serve.leaving import ClientGone, unless_gone
from serve.response_output import Output
from serve.response_schemas import (
    CallItem,
    Item,
    MessageItem,
    OutputItem,
    ResponseRequest,
    turns,
    unanswerable,
)
from serve.response_store import Responses
from serve.served import Entry, Served, UnknownModel
from serve.services import services_of
from serve.stores_routes import store_documents
from serve.streaming import EventStream
from serve.strict_route import StrictRoute

Json = dict[str, Any]

NAMES = {"messages": "input", "response_format": "text.format", "max_tokens": "max_output_tokens"}
"""Fields of this endpoint by their names at chat completions."""

STORE_TOP_K = 4
"""Passages of a vector store that stand in a prompt unless the client says; as many as of a use case's documents."""

router = APIRouter(prefix="/v1/responses", tags=["responses"], route_class=StrictRoute)

_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The response; with `stream`, its events as server-sent events.",
        "content": {
            "application/json": {"schema": {"type": "object", "required": ["id", "object", "status", "output"]}},
            "text/event-stream": {},
        },
    },
    **ERRORS,
}


@router.post("", response_model=None, responses=_RESPONSES, operation_id="create_response")
async def create_response(request: Request, body: ResponseRequest) -> Response:
    """One answer, as items: text with file citations, function calls, and the search behind them."""
    owner, store = caller_of(request).id, _store(request)
    own = [stored for item in body.input if (stored := _stored(item)) is not None]
    items = [*await asyncio.to_thread(_before, store, owner, body.previous_response_id), *own]
    if (wrong := unanswerable(items)) is not None:
        raise ApiError(400, f"'input' {wrong}", param="input", code="invalid_value")
    try:
        entry, documents = await asyncio.to_thread(_served, request, body)
    except UnknownModel:
        raise
    except Exception as exc:
        raise as_api_error(exc, body.model) from exc
    messages = turns(items, body.instructions)

    def make(served: Served, _choice: int) -> types.Request:
        return _request(body, messages, served.max_tokens)

    question = next(m.content for m in reversed(messages) if m.role == "user")
    try:
        user = body.safety_identifier or body.user
        async with answering(request, entry.name, make, user=user, documents=documents, names=NAMES) as answers:
            served = answers.served
            searches = documents is not None or "rag" in served.route
            answered_by = {"tunefork": {"arm": served.arm}} if served.arm else {}
            output = Output(_response(body) | answered_by, question if searches else None, body.include)

            async def keep() -> None:
                if body.store:
                    await asyncio.to_thread(store.add, owner, output.response, own)

            if body.stream:
                answers.handed_over = True
                return EventStream(_events(output, answers, keep, body.model), on_end=answers.cancel)
            async with unless_gone(request.receive):
                await _whole(output, answers)
            await keep()
            return JSONResponse(output.response)
    except ClientGone:
        return nobody_reads()


@router.get("/{response_id}", response_model=None, responses=_RESPONSES, operation_id="retrieve_response")
async def retrieve_response(request: Request, response_id: str, stream: bool = False) -> Response:
    """A stored response. It cannot be streamed once more."""
    if stream:
        raise ApiError(400, "'stream' is not supported here", param="stream", code="unsupported_value")
    stored = await asyncio.to_thread(_store(request).get, caller_of(request).id, response_id)
    if stored is None:
        raise _unknown(response_id)
    return JSONResponse(stored.response)


@router.delete("/{response_id}", response_model=None, responses=ERRORS, operation_id="delete_response")
async def delete_response(request: Request, response_id: str) -> Response:
    """Forget a response. A conversation cannot go on from what followed it."""
    if not await asyncio.to_thread(_store(request).delete, caller_of(request).id, response_id):
        raise _unknown(response_id)
    return JSONResponse({"id": response_id, "object": "response", "deleted": True})


@router.post("/{response_id}/cancel", response_model=None, responses=ERRORS, operation_id="cancel_response")
async def cancel_response(response_id: str) -> Response:
    """Refused: only what runs in the background can be cancelled so. To cancel an answer, close the connection."""
    text = "only a response made with 'background' can be cancelled, and this server makes none"
    raise ApiError(400, text, param="response_id", code="unsupported_value")


@router.get("/{response_id}/input_items", response_model=None, responses=ERRORS, operation_id="list_input_items")
async def list_input_items(
    request: Request,
    response_id: str,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
    after: str | None = None,
) -> Response:
    """The items of the request that a response answered, newest first unless told."""
    stored = await asyncio.to_thread(_store(request).get, caller_of(request).id, response_id)
    if stored is None:
        raise _unknown(response_id)
    items = stored.input if order == "asc" else stored.input[::-1]
    if after is not None:
        places = [at for at, item in enumerate(items) if item["id"] == after]
        if not places:
            raise ApiError(400, f"'after' names no item: {after!r}", param="after", code="invalid_value")
        items = items[places[0] + 1 :]
    page = items[:limit]
    first, last = (page[0]["id"], page[-1]["id"]) if page else ("", "")
    document = {"object": "list", "data": page, "first_id": first, "last_id": last, "has_more": len(items) > limit}
    return JSONResponse(document)


def _store(request: Request) -> Responses:
    return Responses(services_of(request).state)


def _unknown(response_id: str) -> ApiError:
    text = f"there is no response {response_id!r}; it was not stored, was deleted, or is older than 30 days"
    return ApiError(404, text, param="response_id", code="response_not_found")


def _before(store: Responses, owner: str, previous: str | None) -> list[Json]:
    if previous is None:
        return []
    items = store.conversation(owner, previous)
    if items is None:
        text = f"the response {previous!r}, or one that it went on from, is not stored (any more)"
        raise ApiError(400, text, param="previous_response_id", code="previous_response_not_found")
    return items


def _served(request: Request, body: ResponseRequest) -> tuple[Entry, Documents | None]:
    """What answers, and over what: the model, or it with retrieval where the client wants documents searched."""
    catalog: Catalog = request.app.state.catalog
    check_model(request, body.model)
    entry, searched = catalog.entry(body.model), body.searched()
    if searched is None or body.tool_choice == "none":
        return entry, None
    assert searched.vector_store_ids is not None
    wanted = searched.vector_store_ids[0]
    if wanted != entry.use_case and not searched.of_store:
        text = "'vector_store_ids' must name a vector store, or the use case that answers"
        raise ApiError(400, text, param="tools", code="unsupported_value")
    if "rag" in entry.route and not searched.of_store:
        return entry, None
    if entry.variant == "tune" or entry.route == "tune":
        text = f"{body.model!r} answers with an adapter or head, over which nothing can be searched"
        raise ApiError(400, text, param="tools", code="unsupported_value")
    if not searched.of_store:
        return catalog.entry(f"{entry.use_case}:rag"), None
    if "rag" in entry.route:
        # The store's files are searched in place of the use case's own documents, not beside them.
        entry = catalog.entry(f"{entry.use_case}:base")
    threshold = searched.ranking_options.score_threshold if searched.ranking_options is not None else 0.0
    documents = store_documents(request, wanted, searched.filters, threshold or None)
    return entry, Documents(documents, searched.max_num_results or STORE_TOP_K)


def _request(body: ResponseRequest, messages: tuple[Message, ...], default_max_tokens: int) -> types.Request:
    tools, tool_choice = body.choice()
    wants_logprobs = "message.output_text.logprobs" in body.include
    sampling = Sampling(
        max_tokens=body.max_output_tokens or default_max_tokens,
        temperature=0.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_logprobs=(body.top_logprobs or 0) if wants_logprobs else None,
        json_schema=body.json_schema(),
    )
    return types.Request(
        messages, sampling, tools=tools, tool_choice=tool_choice, parallel_tool_calls=body.parallel_tool_calls
    )


def _response(body: ResponseRequest) -> Json:
    """The response object before there is any output."""
    text: Json = {"type": "text"}
    if body.text is not None and body.text.format is not None:
        text = body.text.format.model_dump(by_alias=True, exclude_none=True)
    return {
        "id": new_id("resp_"),
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": None,
        "model": body.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": body.store,
        "temperature": 0.0 if body.temperature is None else body.temperature,
        "text": {"format": text},
        "tool_choice": body.tool_choice,
        "tools": [_tool_out(tool.model_dump(exclude_none=True)) for tool in body.tools],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": body.user,
        "metadata": dict(body.metadata),
    }


def _tool_out(tool: Json) -> Json:
    if tool["type"] == "function":
        return {"parameters": None, **tool}
    return {key: value for key, value in tool.items() if key != "strict"}


def _stored(item: Item) -> Json | None:
    """An input item as it is kept and listed; None for an earlier search, which is kept with the response it is of."""
    if isinstance(item, MessageItem):
        role = item.role
        kind = "output_text" if role == "assistant" else "input_text"
        part: Json = {"type": kind, "text": item.content}
        if role == "assistant":
            part["annotations"] = []
        return {
            "id": item.id or new_id("msg_"),
            "type": "message",
            "role": role,
            "status": "completed",
            "content": [part],
        }
    if isinstance(item, CallItem):
        call = {"call_id": item.call_id, "name": item.name, "arguments": item.arguments}
        return {"id": item.id or new_id("fc_"), "type": item.type, "status": "completed", **call}
    if isinstance(item, OutputItem):
        result = {"call_id": item.call_id, "output": item.output}
        return {"id": item.id or new_id("fco_"), "type": item.type, "status": "completed", **result}
    return None


async def _whole(output: Output, answers: Answering) -> None:
    for _event in output.start():
        pass
    async for _, delta in answers.deltas():
        for _event in output.add(delta):
            pass


async def _events(output: Output, answers: Answering, keep: Any, model: str) -> AsyncIterator[str]:
    """The typed events. What is stored is stored before the last one is sent, so that a client may go on at once."""
    for event in output.start():
        yield _line(event)
    try:
        async for _, delta in answers.deltas():
            for event in output.add(delta):
                if event["type"] in ("response.completed", "response.incomplete"):
                    await keep()
                yield _line(event)
    except Exception as exc:  # noqa: BLE001 - the status is sent already: the only way left to say it is an event
        for event in output.fail(as_api_error(exc, model).body.message):
            yield _line(event)


def _line(event: Json) -> str:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"
