"""What chat completions answer, whole and in chunks, as pydantic models: OpenAI's fields, and the extensions of ours."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field


def is_none(value: object) -> bool:
    return value is None


class SourceOut(BaseModel):
    """A passage the answer was grounded in, cited as [number]."""

    number: int
    document_id: str
    title: str
    text: str
    score: float
    metadata: dict[str, str | int | float | bool] = {}


class CallFunctionOut(BaseModel):
    name: str
    arguments: str


class CallOut(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: CallFunctionOut


class CallFunctionDeltaOut(BaseModel):
    name: str | None = Field(default=None, exclude_if=is_none)
    arguments: str


class CallDeltaOut(BaseModel):
    """A piece of a call: id, type and name come with the first."""

    index: int
    id: str | None = Field(default=None, exclude_if=is_none)
    type: Literal["function"] | None = Field(default=None, exclude_if=is_none)
    function: CallFunctionDeltaOut


class TopLogprobOut(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class LogprobOut(TopLogprobOut):
    top_logprobs: list[TopLogprobOut]


class LogprobsOut(BaseModel):
    content: list[LogprobOut]
    refusal: None = None


class MessageOut(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str | None
    tool_calls: list[CallOut] | None = Field(default=None, exclude_if=is_none)
    refusal: None = None
    annotations: list[Any] = []
    sources: list[SourceOut] | None = Field(default=None, exclude_if=is_none)
    """Extension: present in answers that retrieval was used for."""
    unknown_citations: list[int] | None = Field(default=None, exclude_if=is_none)
    """Extension: numbers that the answer cites and no source has; absent where there are none."""


class ChoiceOut(BaseModel):
    index: int
    message: MessageOut
    logprobs: LogprobsOut | None = None
    finish_reason: Literal["stop", "length", "tool_calls"]


class UsageOut(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AnsweredBy(BaseModel):
    """Extension: which arm of a canary answered."""

    arm: str


class ChatResponse(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChoiceOut]
    usage: UsageOut
    system_fingerprint: str
    tunefork: AnsweredBy | None = Field(default=None, exclude_if=is_none)
    """Extension: while a canary is under way."""


class DeltaOut(BaseModel):
    role: Literal["assistant"] | None = Field(default=None, exclude_if=is_none)
    content: str | None = Field(default=None, exclude_if=is_none)
    tool_calls: list[CallDeltaOut] | None = Field(default=None, exclude_if=is_none)
    sources: list[SourceOut] | None = Field(default=None, exclude_if=is_none)
    """Extension: in a choice's last chunk, where retrieval was used."""
    unknown_citations: list[int] | None = Field(default=None, exclude_if=is_none)
    """Extension: beside them, as in `MessageOut`."""


class ChunkChoiceOut(BaseModel):
    index: int
    delta: DeltaOut
    logprobs: LogprobsOut | None = None
    finish_reason: Literal["stop", "length", "tool_calls"] | None = None


class ChatChunk(BaseModel):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoiceOut]
    usage: UsageOut | None = None
    system_fingerprint: str
    tunefork: AnsweredBy | None = Field(default=None, exclude_if=is_none)
