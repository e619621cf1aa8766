"""POST /v1/completions, OpenAI's older endpoint: a base model continues the prompt as it stands.

A use case (and each of its variants) takes the prompt as the user's message instead: it was built and measured on chats.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from functools import cache
from itertools import accumulate
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, WithJsonSchema, model_validator

from core import types
from core.errors import NotHonoured
from core.types import Completion, Delta, Message, TokenLogprob
from serve.answering import Answering, answering, nobody_reads
from serve.chat_output import AnsweredBy, SourceOut, UsageOut, is_none
from serve.errors import as_api_error
from serve.fields import OnlyFalse, Text, at, only_empty, texts_or_ids
from serve.leaving import ClientGone
from serve.schemas import MAX_CHOICES, SampledRequest
from serve.served import Served
from serve.streaming import (
    DONE,
    EventStream,
    Head,
    data_line,
    differing_in_text,
    error_event,
    head_of,
    sources_out,
    streamed_or_whole,
    usage_out,
)
from serve.strict_route import StrictRoute

MAX_PROMPTS = 128
DEFAULT_MAX_TOKENS = 16
"""OpenAI's, for this endpoint."""

NAMES = {"messages": "prompt"}
"""Fields of this endpoint by their names at chat completions."""

Prompt = str | list[int]


def _prompts(value: Any) -> list[Prompt]:
    """A text, texts, token ids, or lists of them, as a list of prompts."""
    return texts_or_ids(value, MAX_PROMPTS, "prompts")


_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_TEXTS = {"type": "array", "items": {"type": "string"}, "minItems": 1}
Prompts = Annotated[
    Any,
    BeforeValidator(_prompts),
    WithJsonSchema({"anyOf": [{"type": "string"}, _TEXTS, _IDS, {"type": "array", "items": _IDS, "minItems": 1}]}),
]


class CompletionRequest(SampledRequest):
    """The body of POST /v1/completions."""

    prompt: Prompts
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    echo: OnlyFalse = False
    suffix: Annotated[Text, AfterValidator(only_empty), Field(json_schema_extra={"maxLength": 0})] | None = None
    max_tokens: Annotated[int, Field(ge=1)] = DEFAULT_MAX_TOKENS
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None

    @model_validator(mode="after")
    def _together(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of != self.n:
            raise at("best_of", "is only supported as the value of 'n'", "unsupported_value")
        if len(self.prompt) * self.n > MAX_PROMPTS:
            raise at("n", f"times the prompts must not exceed {MAX_PROMPTS}")
        return self


class LegacyLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class TextChoice(BaseModel):
    index: int
    text: str
    logprobs: LegacyLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None
    sources: list[SourceOut] | None = Field(default=None, exclude_if=is_none)
    """Extension: the passages of an answer that retrieval was used for."""


class CompletionResponse(BaseModel):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: UsageOut | None = None
    system_fingerprint: str
    tunefork: AnsweredBy | None = Field(default=None, exclude_if=is_none)
    """Extension: while a canary is under way."""


router = APIRouter(prefix="/v1", tags=["completions"], route_class=StrictRoute)

_RESPONSES = streamed_or_whole(CompletionResponse, "The continuations")


@router.post("/completions", response_model=None, responses=_RESPONSES, operation_id="create_completion")
async def create_completion(request: Request, body: CompletionRequest) -> Response:
    """Continuations of one or more prompts."""
    prompts: list[Prompt] = body.prompt

    def make(served: Served, choice: int) -> types.Request:
        return _request(body, prompts[choice // body.n], choice % body.n, served)

    try:
        async with answering(request, body.model, make, len(prompts) * body.n, user=body.user, names=NAMES) as answers:
            head = head_of(answers, "cmpl-", body.model)
            if body.stream:
                answers.handed_over = True
                return EventStream(_events(head, body, answers), on_end=answers.cancel)
            completions = await answers.whole(request)
            choices = [
                TextChoice(
                    index=index,
                    text=completion.text,
                    logprobs=_legacy(completion.logprobs, body.logprobs, 0),
                    finish_reason="length" if completion.finish_reason == "length" else "stop",
                    sources=sources_out(completion),
                )
                for index, completion in enumerate(completions)
            ]
            return JSONResponse(_document(head, choices, _usage(completions, body.n)).model_dump(mode="json"))
    except ClientGone:
        return nobody_reads()


def _request(body: CompletionRequest, prompt: Prompt, choice: int, served: Served) -> types.Request:
    sampling = body.sampling(choice, body.max_tokens, body.logprobs)
    if not served.use_case:
        return types.Request((), sampling, prompt=prompt if isinstance(prompt, str) else tuple(prompt))
    if not isinstance(prompt, str):
        raise NotHonoured("prompt", "a use case takes its prompt as text; token ids are for base models")
    if not prompt.strip():
        raise NotHonoured("prompt", "a use case takes its prompt as the user's message, which must not be empty")
    return types.Request((Message("user", prompt),), sampling)


async def _events(head: Head, body: CompletionRequest, answers: Answering) -> AsyncIterator[bytes]:
    ended: dict[int, Completion] = {}
    offsets: dict[int, int] = {}

    @cache
    def text_chunk(index: int) -> Callable[[str], bytes]:
        def event(text: str) -> bytes:
            return data_line(_document(head, [_chunk(index, Delta(text), None, 0)], None), body.with_usage)

        return differing_in_text(event)

    try:
        async for index, delta in answers.deltas():
            if delta.completion is not None:
                ended[index] = delta.completion
            if delta.text and not delta.logprobs and delta.completion is None:
                offsets[index] = offsets.get(index, 0) + len(delta.text)
                yield text_chunk(index)(delta.text)
            elif delta.text or delta.logprobs or delta.completion is not None:
                choice = _chunk(index, delta, body.logprobs, offsets.get(index, 0))
                offsets[index] = offsets.get(index, 0) + len(delta.text)
                yield data_line(_document(head, [choice], None), body.with_usage)
    except Exception as exc:  # noqa: BLE001 - the status is sent already: the only way left to say it is an event
        yield error_event(as_api_error(exc, head.model))
        return
    if body.with_usage:
        completions = [ended[index] for index in sorted(ended)]
        yield data_line(_document(head, [], _usage(completions, body.n)), True)
    yield DONE


def _chunk(index: int, delta: Delta, wanted: int | None, offset: int) -> TextChoice:
    end = delta.completion
    return TextChoice(
        index=index,
        text=delta.text,
        logprobs=_legacy(delta.logprobs or None, wanted, offset),
        finish_reason=None if end is None else "length" if end.finish_reason == "length" else "stop",
        sources=None if end is None else sources_out(end),
    )


def _legacy(logprobs: Sequence[TokenLogprob] | None, wanted: int | None, offset: int) -> LegacyLogprobs | None:
    """Log probabilities in this endpoint's form. The token itself is always among `top_logprobs`, as at OpenAI."""
    if logprobs is None or wanted is None:
        return None
    tops: list[dict[str, float]] = [{lp.token: lp.logprob} | {t: p for t, p, _ in lp.top} for lp in logprobs]
    return LegacyLogprobs(
        tokens=[lp.token for lp in logprobs],
        token_logprobs=[lp.logprob for lp in logprobs],
        top_logprobs=tops if wanted else None,
        text_offset=list(accumulate((len(lp.token) for lp in logprobs[:-1]), initial=offset)) if logprobs else [],
    )


def _usage(completions: list[Completion], n: int) -> UsageOut:
    """Usage of one request: each prompt once, all continuations."""
    each = [usage_out(completions[at : at + n]) for at in range(0, len(completions), n)]
    prompt, answers = sum(u.prompt_tokens for u in each), sum(u.completion_tokens for u in each)
    return UsageOut(prompt_tokens=prompt, completion_tokens=answers, total_tokens=prompt + answers)


def _document(head: Head, choices: list[TextChoice], usage: UsageOut | None) -> CompletionResponse:
    return CompletionResponse(
        id=head.id,
        created=head.created,
        model=head.model,
        choices=choices,
        usage=usage,
        system_fingerprint=head.fingerprint,
        tunefork=head.answered_by,
    )
