"""The values that travel between rooms: messages in, completions out.

Plain frozen dataclasses: they are made by the thousand in the hot path, and
they are hashable, so they can key a cache.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: str


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


@dataclass(frozen=True, slots=True)
class Request:
    """One chat to answer."""

    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    adapter: str | None = None
    """Folder of a PEFT adapter to answer with; None is the base model."""


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


FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Completion:
    text: str
    finish_reason: FinishReason
    usage: Usage
    latency_s: float
    """Wall time from the request's admission to its last token."""
    sources: tuple[Source, ...] = ()
    """Passages a RagEngine used; empty elsewhere."""


@dataclass(frozen=True, slots=True)
class Delta:
    """One piece of a stream. The last one has `completion` set and adds no text that `completion` lacks."""

    text: str
    completion: Completion | None = None
