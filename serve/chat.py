"""POST /v1/chat/completions: parse, let the engine work, shape."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from core import types
from core.types import Completion
from serve.answering import answering, nobody_reads
from serve.chat_output import ChatResponse, ChoiceOut, MessageOut
from serve.leaving import ClientGone
from serve.schemas import ChatRequest
from serve.served import Served
from serve.streaming import (
    EventStream,
    Head,
    calls_out,
    events,
    head_of,
    logprobs_out,
    sources_out,
    streamed_or_whole,
    usage_out,
)
from serve.strict_route import StrictRoute

router = APIRouter(prefix="/v1", tags=["chat"], route_class=StrictRoute)

_RESPONSES = streamed_or_whole(ChatResponse, "The answer")


@router.post("/chat/completions", response_model=None, responses=_RESPONSES, operation_id="create_chat_completion")
async def create_chat_completion(request: Request, body: ChatRequest) -> Response:
    """One answer to a chat, by a use case, one of its variants, or a base model."""

    def make(served: Served, choice: int) -> types.Request:
        return _request(body, choice, served.max_tokens)

    try:
        user = body.safety_identifier or body.user
        async with answering(request, body.model, make, body.n, user=user) as answers:
            head = head_of(answers, "chatcmpl-", body.model)
            if body.stream:
                answers.handed_over = True
                return EventStream(events(head, answers.deltas(), body.with_usage), on_end=answers.cancel)
            return JSONResponse(_whole(head, await answers.whole(request)))
    except ClientGone:
        return nobody_reads()


def _request(body: ChatRequest, choice: int, default_max_tokens: int) -> types.Request:
    tools, tool_choice = body.choice()
    sampling = body.sampling(
        choice,
        max_tokens=body.max_completion_tokens or body.max_tokens or default_max_tokens,
        top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        json_schema=None if body.response_format is None else body.response_format.enforced(),
    )
    several = body.parallel_tool_calls is not False
    return types.Request(body.turns(), sampling, tools=tools, tool_choice=tool_choice, parallel_tool_calls=several)


def _whole(head: Head, completions: list[Completion]) -> dict[str, Any]:
    choices = [
        ChoiceOut(
            index=index,
            message=MessageOut(
                content=None if completion.tool_calls and not completion.text else completion.text,
                tool_calls=calls_out(completion.tool_calls),
                sources=sources_out(completion),
                unknown_citations=list(completion.unknown_citations) or None,
            ),
            logprobs=logprobs_out(completion.logprobs),
            finish_reason=completion.finish_reason,
        )
        for index, completion in enumerate(completions)
    ]
    return ChatResponse(
        id=head.id,
        created=head.created,
        model=head.model,
        choices=choices,
        usage=usage_out(completions),
        system_fingerprint=head.fingerprint,
        tunefork=head.answered_by,
    ).model_dump(mode="json")
