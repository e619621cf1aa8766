"""The values that travel between rooms: messages in, completions out.

Plain frozen dataclasses: they are made by the thousand in the hot path, and
they are hashable, so they can key a cache.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function the model wants called."""

    id: str
    name: str
    arguments: str
    """A JSON object, as text; its beginning where the answer was cut off, and what else a model may write unguided."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call."""

    name: str
    description: str = ""
    parameters: str = '{"type": "object"}'
    """JSON Schema of the arguments, as text."""
    strict: bool = False
    """A call whose arguments do not follow the schema is no call."""


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    """Of an assistant's turn."""
    tool_call_id: str | None = None
    """Of a tool's turn: the call it answers."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to decode. Defaults are greedy: the advisor's arms must be repeatable."""

    max_tokens: int = 256
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    """The first of these in the text ends it; the stop text itself is not returned."""
    seed: int | None = None
    presence_penalty: float = 0.0
    """Taken from the logit of every token that the answer holds already."""
    frequency_penalty: float = 0.0
    """Likewise, once for each time it does."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, added to its logit)."""
    top_logprobs: int | None = None
    """Report each token's log probability, and those of this many likeliest alternatives; None: none at all."""
    json_schema: str | None = None
    """JSON Schema, as text, that the answer is held to while it is decoded; ANY_OBJECT for just any JSON object."""


ANY_OBJECT = '{"type": "object"}'

ToolChoice = Literal["auto", "none", "required"]


@dataclass(frozen=True, slots=True)
class Request:
    """One chat to answer, or one text to continue."""

    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    adapter: str | None = None
    """Folder of a PEFT adapter to answer with; None is the base model."""
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | Tool = "auto"
    """A Tool: that one must be called."""
    parallel_tool_calls: bool = True
    """Whether one answer may hold several calls."""
    prompt: str | tuple[int, ...] | None = None
    """Text or token ids to continue as they are, in place of `messages` (which are empty then)."""


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Source:
    """A passage that was put in front of the model, as cited by its `number`."""

    number: int
    """1-based, as in the prompt: `[1]`."""
    document_id: str
    title: str
    text: str
    score: float
    metadata: dict[str, str | int | float | bool] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """How likely one token was, by the model's own distribution: before temperature, penalties, bias and schema."""

    token: str
    """Its text; bytes that are no whole character stand as \\xNN."""
    logprob: float
    """Natural logarithm."""
    raw: bytes
    top: tuple[tuple[str, float, bytes], ...] = ()
    """The likeliest tokens as (token, logprob, raw), best first."""


FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class Completion:
    text: str
    finish_reason: FinishReason
    usage: Usage
    latency_s: float
    """Wall time from the request's admission to its last token."""
    sources: tuple[Source, ...] = ()
    """Passages a RagEngine used; empty elsewhere."""
    unknown_citations: tuple[int, ...] = ()
    """Numbers that the answer cites and no passage has."""
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    """One a token of the answer, the end-of-turn token left out; None where none were asked for."""
    attempts: int = 1
    """Requests that it took: an endpoint may fail and be asked again."""


@dataclass(frozen=True, slots=True)
class CallPiece:
    """What is new of one call. The first piece has the id and the name; the arguments of all make up the whole."""

    index: int
    """Of the call in its answer, from 0. The pieces of a call come before those of the next."""
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Delta:
    """One piece of a stream. The last one has `completion` set and adds no text that `completion` lacks."""

    text: str
    completion: Completion | None = None
    tool_calls: tuple[CallPiece, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of tokens that were not reported before."""
