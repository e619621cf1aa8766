"""A chat answer as server-sent events: OpenAI's chunks, then [DONE]."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from pydantic import BaseModel
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from core.types import CallPiece, Completion, Delta, TokenLogprob, ToolCall
from serve.answering import Answering, new_id
from serve.chat_output import (
    AnsweredBy,
    CallDeltaOut,
    CallFunctionDeltaOut,
    CallFunctionOut,
    CallOut,
    ChatChunk,
    ChunkChoiceOut,
    DeltaOut,
    LogprobOut,
    LogprobsOut,
    SourceOut,
    TopLogprobOut,
    UsageOut,
)
from serve.errors import ERRORS, ApiError, as_api_error
from serve.leaving import ClientGone, unless_gone

DONE = b"data: [DONE]\n\n"

_quoted = json.JSONEncoder(ensure_ascii=False).encode

_MARK = uuid.uuid4().hex
"""A text that nobody sends: nobody has seen it."""


def streamed_or_whole(model: type[BaseModel], what: str) -> dict[int | str, dict[str, Any]]:
    """For the `responses` of a route that answers with `model`, or streams chunks of it."""
    return {
        200: {
            "model": model,
            "description": f"{what}; with `stream`, chunks as server-sent events.",
            # No schema: OpenAPI 3.1 has none for one event of a stream.
            "content": {"text/event-stream": {}},
        },
        **ERRORS,
    }


@dataclass(frozen=True)
class Head:
    """What every chunk of an answer repeats."""

    id: str
    created: int
    model: str
    fingerprint: str
    answered_by: AnsweredBy | None = None


def head_of(answers: Answering, prefix: str, model: str) -> Head:
    """The head of the answers to a request for `model`."""
    served = answers.served
    by = AnsweredBy(arm=served.arm) if served.arm else None
    return Head(new_id(prefix), int(time.time()), model, served.fingerprint, by)


class LastPart(bytes):
    """What no other part follows: it need not be waited for to end the response."""


class EventStream(StreamingResponse):
    """Calls `on_end` however the stream ends: sent to its end, client gone, or server stopping."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[str | bytes], on_end: Callable[[], None]) -> None:
        # A proxy that buffers would hold the tokens back.
        super().__init__(events, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._on_end = on_end

    async def stream_response(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        ended = False
        async for part in self.body_iterator:
            body = part.encode() if isinstance(part, str) else part
            ended = isinstance(part, LastPart)
            await send({"type": "http.response.body", "body": body, "more_body": not ended})
        if not ended:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with unless_gone(receive):
                await self.stream_response(send)
        except ClientGone:
            pass
        finally:
            self._on_end()


async def events(head: Head, pieces: AsyncIterator[tuple[int, Delta]], include_usage: bool) -> AsyncIterator[bytes]:
    """The events of one answer. `pieces` are the choices' deltas as they come, with the index of their choice.

    Events that are there at the same time come out joined: each part is written to the client by itself.

    A failure in mid-stream is an event with OpenAI's error envelope; no [DONE] follows it, so that a client which does
    not know such events still sees that the answer was cut off.
    """
    started: set[int] = set()
    ended: list[Completion] = []
    text_chunk = cache(partial(_text_chunk, head, include_usage))
    ready = b""
    try:
        async for index, delta in pieces:
            if index not in started:
                started.add(index)
                ready += _chunk(head, index, DeltaOut(role="assistant", content=""), include_usage)
            if delta.logprobs:
                ready += _chunk(head, index, DeltaOut(content=delta.text), include_usage, logprobs=delta.logprobs)
            elif delta.text:
                ready += text_chunk(index)(delta.text)
            for piece in delta.tool_calls:
                ready += _chunk(head, index, DeltaOut(tool_calls=[_piece(piece)]), include_usage)
            if delta.completion is not None:
                ended.append(delta.completion)
                unknown = list(delta.completion.unknown_citations) or None
                last = DeltaOut(sources=sources_out(delta.completion), unknown_citations=unknown)
                ready += _chunk(head, index, last, include_usage, delta.completion)
                # What is left to be said follows at once, or other choices' pieces do.
                continue
            if ready:
                yield ready
                ready = b""
    except Exception as exc:  # noqa: BLE001 - the status is sent already: the only way left to say it is an event
        yield ready + error_event(as_api_error(exc, head.model))
        return
    if include_usage:
        ready += _data(_bare(head, [], usage_out(ended)).model_dump_json())
    yield LastPart(ready + DONE)


def differing_in_text(event: Callable[[str], bytes]) -> Callable[[str], bytes]:
    """`event`, of which only the one text in it is ever new: the rest is made once, and each time taken as it was."""
    before, after = event(_MARK).split(_quoted(_MARK).encode())
    return lambda text: before + _quoted(text).encode() + after


def _text_chunk(head: Head, with_usage: bool, index: int) -> Callable[[str], bytes]:
    return differing_in_text(lambda text: _chunk(head, index, DeltaOut(content=text), with_usage))


def error_event(error: ApiError) -> bytes:
    return _data(json.dumps(error.envelope()))


def usage_out(completions: list[Completion]) -> UsageOut:
    """Usage of one request: its prompt once, its answers added up."""
    prompt = max(c.usage.prompt_tokens for c in completions)
    answers = sum(c.usage.completion_tokens for c in completions)
    return UsageOut(prompt_tokens=prompt, completion_tokens=answers, total_tokens=prompt + answers)


def calls_out(calls: Sequence[ToolCall]) -> list[CallOut] | None:
    """The calls of a whole answer; None where there are none, so the field is left out."""
    return [
        CallOut(id=call.id, function=CallFunctionOut(name=call.name, arguments=call.arguments)) for call in calls
    ] or None


def _piece(piece: CallPiece) -> CallDeltaOut:
    function = CallFunctionDeltaOut(name=piece.name or None, arguments=piece.arguments)
    return CallDeltaOut(
        index=piece.index, id=piece.id or None, type="function" if piece.id else None, function=function
    )


def logprobs_out(logprobs: Sequence[TokenLogprob] | None) -> LogprobsOut | None:
    if logprobs is None:
        return None
    return LogprobsOut(
        content=[
            LogprobOut(
                token=item.token,
                logprob=item.logprob,
                bytes=list(item.raw),
                top_logprobs=[TopLogprobOut(token=t, logprob=lp, bytes=list(raw)) for t, lp, raw in item.top],
            )
            for item in logprobs
        ]
    )


def sources_out(completion: Completion) -> list[SourceOut] | None:
    """The passages of a grounded answer; None where there are none, so the field is left out."""
    if not completion.sources:
        return None
    return [
        SourceOut(
            number=s.number, document_id=s.document_id, title=s.title, text=s.text, score=s.score, metadata=s.metadata
        )
        for s in completion.sources
    ]


def _chunk(
    head: Head,
    index: int,
    delta: DeltaOut,
    with_usage: bool,
    end: Completion | None = None,
    logprobs: Sequence[TokenLogprob] = (),
) -> bytes:
    choice = ChunkChoiceOut(
        index=index,
        delta=delta,
        logprobs=logprobs_out(logprobs or None),
        finish_reason=None if end is None else end.finish_reason,
    )
    # Where usage was asked for, every chunk but the last carries it as null; elsewhere it is absent.
    return data_line(_bare(head, [choice], None), with_usage)


def _bare(head: Head, choices: list[ChunkChoiceOut], usage: UsageOut | None) -> ChatChunk:
    return ChatChunk(
        id=head.id,
        created=head.created,
        model=head.model,
        choices=choices,
        usage=usage,
        system_fingerprint=head.fingerprint,
        tunefork=head.answered_by,
    )


def data_line(chunk: BaseModel, with_usage: bool) -> bytes:
    """`chunk` as an event, without its usage field where nobody asked for usage."""
    return _data(chunk.model_dump_json(exclude=None if with_usage else {"usage"}))


def _data(text: str) -> bytes:
    return f"data: {text}\n\n".encode()
