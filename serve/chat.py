"""POST /v1/chat/completions: parse, let the engine work, shape."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Coroutine, Generator
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from core import types
from core.types import Completion, Delta, Message, Sampling
from serve.catalog import Catalog
from serve.errors import ERRORS, as_api_error, queue_full
from serve.schemas import ChatRequest, ChatResponse, ChoiceOut, MessageOut
from serve.streaming import EventStream, Head, events, sources_out, usage_out
from serve.workers import QueueFull, Workers

T = TypeVar("T")
RETRY_AFTER_S = 1


class Piece(NamedTuple):
    delta: Delta
    fingerprint: str


class ClientGone(Exception):
    """The client closed the connection; nobody reads an answer any more."""


router = APIRouter(prefix="/v1", tags=["chat"])

_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "model": ChatResponse,
        "description": "The answer; with `stream`, chunks as server-sent events.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
    **ERRORS,
}


@router.post("/chat/completions", response_model=None, responses=_RESPONSES, operation_id="create_chat_completion")
async def create_chat_completion(request: Request, body: ChatRequest) -> Response:
    """One answer to a chat, by a use case, one of its variants, or a base model."""
    catalog: Catalog = request.app.state.catalog
    workers: Workers = request.app.state.workers
    try:
        work = workers.start([partial(_answer, catalog, body, choice) for choice in range(body.n)])
    except QueueFull:
        raise queue_full(RETRY_AFTER_S) from None
    created = int(time.time())
    pieces = work.pieces()
    handed_over = False
    try:
        # The first piece decides the status: what fails before it is an HTTP error, what fails later an event.
        first = await _unless_gone(request, _next(pieces))
        head = Head(f"chatcmpl-{uuid.uuid4().hex}", created, body.model, first[1].fingerprint)
        if body.stream:
            with_usage = body.stream_options is not None and body.stream_options.include_usage
            handed_over = True
            return EventStream(events(head, _deltas(first, pieces), with_usage), on_end=work.cancel)
        return JSONResponse(await _unless_gone(request, _whole(head, first, pieces)))
    except ClientGone:
        return Response(status_code=499)
    except Exception as exc:
        raise as_api_error(exc, body.model) from exc
    finally:
        if not handed_over:
            work.cancel()


def _answer(catalog: Catalog, body: ChatRequest, choice: int) -> Generator[Piece, None, None]:
    """Runs in a worker thread."""
    with catalog.lease(body.model) as served:
        request = types.Request(_messages(body), _sampling(body, choice, served.max_tokens))
        deltas = cast(Generator[Delta, None, None], served.engine.stream(request))
        with closing(deltas):
            for delta in deltas:
                yield Piece(delta, served.fingerprint)


def _messages(body: ChatRequest) -> tuple[Message, ...]:
    return tuple(Message("system" if m.role == "developer" else m.role, m.content) for m in body.messages)


def _sampling(body: ChatRequest, choice: int, default_max_tokens: int) -> Sampling:
    """How to decode. Greedy unless the client names a temperature: that is how the use case was measured."""
    return Sampling(
        max_tokens=body.max_completion_tokens or body.max_tokens or default_max_tokens,
        temperature=0.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        stop=tuple(body.stop or ()),
        # Choices of one seed must differ among each other, and come back the same.
        seed=None if body.seed is None else body.seed + choice,
    )


async def _next(pieces: AsyncIterator[T]) -> T:
    return await anext(pieces)


async def _deltas(first: tuple[int, Piece], rest: AsyncIterator[tuple[int, Piece]]) -> AsyncIterator[tuple[int, Delta]]:
    yield first[0], first[1].delta
    async for index, piece in rest:
        yield index, piece.delta


async def _whole(head: Head, first: tuple[int, Piece], rest: AsyncIterator[tuple[int, Piece]]) -> dict[str, Any]:
    ended: dict[int, Completion] = {}
    async for index, delta in _deltas(first, rest):
        if delta.completion is not None:
            ended[index] = delta.completion
    choices = [
        ChoiceOut(
            index=index,
            message=MessageOut(content=ended[index].text, sources=sources_out(ended[index])),
            finish_reason=ended[index].finish_reason,
        )
        for index in sorted(ended)
    ]
    return ChatResponse(
        id=head.id,
        created=head.created,
        model=head.model,
        choices=choices,
        usage=usage_out(list(ended.values())),
        system_fingerprint=head.fingerprint,
    ).model_dump(mode="json")


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; raises ClientGone as soon as the client has hung up."""
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_hang_up(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
