"""The part of OpenAI's API that is honoured, as pydantic models: requests are strict, responses are complete.

A field of OpenAI's that is not declared here is refused by name, one that is declared with a single value is accepted
only with it ("off"), and everything else is unknown. `null` means "not given", as it does at OpenAI.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

MAX_CHOICES = 16
MAX_MESSAGES = 2048

UNSUPPORTED = frozenset(
    (
        *("audio", "function_call", "functions", "modalities", "moderation", "parallel_tool_calls", "prediction"),
        *("reasoning_effort", "tool_choice", "tools", "top_logprobs", "verbosity", "web_search_options"),
    )
)
"""Fields of OpenAI's chat completions that this server cannot honour, and so refuses by name."""


def _valid_text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("value_error", "holds half of a surrogate pair, which is not text") from None
    return value


Text = Annotated[str, AfterValidator(_valid_text)]


def _joined(content: Any) -> Any:
    """Text parts as one string, a line each. Other parts are refused by their type."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
            raise PydanticCustomError(
                "value_error", "must be a string, or parts like {{'type': 'text', 'text': '...'}}"
            )
        if part["type"] != "text":
            raise PydanticCustomError(
                "unsupported_value", "has a part of type '{kind}'; only text is supported", {"kind": part["type"][:40]}
            )
        if not isinstance(part.get("text"), str):
            raise PydanticCustomError("value_error", "has a text part without a 'text' string")
        texts.append(part["text"])
    if not texts:
        raise PydanticCustomError("value_error", "must not be an empty list")
    return "\n".join(texts)


_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
Content = Annotated[
    Text,
    BeforeValidator(_joined),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": _PART, "minItems": 1}]}),
]


def _as_list(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


_STOP_LIST = {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 4}
Stop = Annotated[
    list[Annotated[Text, Field(min_length=1)]],
    Field(max_length=4),
    BeforeValidator(_as_list),
    WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1}, _STOP_LIST, {"type": "null"}]}),
]


class Strict(BaseModel):
    """No coercion, no unknown fields; a field given as null counts as not given."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {key: item for key, item in value.items() if item is not None}


class SystemMessage(Strict):
    role: Literal["system", "developer"]
    content: Content
    name: Text | None = None
    """Accepted, and not shown to the model: chat templates have no place for it. Likewise below."""


class UserMessage(Strict):
    role: Literal["user"]
    content: Content
    name: Text | None = None


class AssistantMessage(Strict):
    """An earlier answer. What this server adds to its answers may come back with them, and is not shown to the model."""

    role: Literal["assistant"]
    content: Content
    name: Text | None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    sources: list[Any] | None = None


def _with_known_role(message: Any) -> Any:
    """Says which roles there are; pydantic's own words for a wrong tag are about unions."""
    role = message.get("role") if isinstance(message, Mapping) else None
    if not isinstance(role, str):
        raise PydanticCustomError("value_error", "must be an object with a 'role' and a 'content'")
    if role not in ("system", "developer", "user", "assistant"):
        raise PydanticCustomError(
            "unsupported_value",
            "has the role '{role}'; supported: system, developer, user, assistant",
            {"role": role[:40]},
        )
    return message


ChatMessage = Annotated[
    Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")],
    BeforeValidator(_with_known_role),
]


class StreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class TextFormat(Strict):
    type: Literal["text"]


def _zero(value: float) -> float:
    if value != 0:
        raise PydanticCustomError("unsupported_value", "is only supported as 0 (off)")
    return value


Off = Annotated[float, AfterValidator(_zero), WithJsonSchema({"type": "number", "enum": [0]})]


class ChatRequest(Strict):
    """The body of POST /v1/chat/completions."""

    model: Annotated[Text, Field(min_length=1, max_length=512)]
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    stop: Stop | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1

    # Accepted and without effect here: labels and hints for a hosted service.
    user: Text | None = None
    metadata: dict[str, str] | None = None
    safety_identifier: Text | None = None
    prompt_cache_key: Text | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: Text | None = None

    # Accepted only as "off", for clients that always send them.
    frequency_penalty: Off | None = None
    presence_penalty: Off | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    logprobs: Literal[False] | None = None
    response_format: TextFormat | None = None
    service_tier: Literal["auto", "default"] | None = None
    store: Literal[False] | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            for field in value:
                if field in UNSUPPORTED and value[field] is not None:
                    raise PydanticCustomError(
                        "unsupported_parameter", "is not supported by this server", {"param": field}
                    )
        return value

    @model_validator(mode="after")
    def _together(self) -> ChatRequest:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise _at("max_tokens", "and 'max_completion_tokens' mean the same; give one")
        if self.stream_options is not None and not self.stream:
            raise _at("stream_options", "is only allowed when 'stream' is true")
        if not any(m.role == "user" for m in self.messages):
            raise _at("messages", "must have at least one message with the role 'user'")
        return self


def _at(param: str, text: str) -> PydanticCustomError:
    return PydanticCustomError("value_error", "{text}", {"param": param, "text": text})


def _is_none(value: object) -> bool:
    return value is None


class SourceOut(BaseModel):
    """A passage the answer was grounded in, cited as [number]."""

    number: int
    document_id: str
    title: str
    text: str
    score: float
    metadata: dict[str, str | int | float | bool] = {}


class MessageOut(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None
    annotations: list[Any] = []
    sources: list[SourceOut] | None = Field(default=None, exclude_if=_is_none)
    """Extension: present in answers that retrieval was used for."""


class ChoiceOut(BaseModel):
    index: int
    message: MessageOut
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class UsageOut(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatResponse(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChoiceOut]
    usage: UsageOut
    system_fingerprint: str


class DeltaOut(BaseModel):
    role: Literal["assistant"] | None = Field(default=None, exclude_if=_is_none)
    content: str | None = Field(default=None, exclude_if=_is_none)
    sources: list[SourceOut] | None = Field(default=None, exclude_if=_is_none)
    """Extension: in a choice's last chunk, where retrieval was used."""


class ChunkChoiceOut(BaseModel):
    index: int
    delta: DeltaOut
    logprobs: None = None
    finish_reason: Literal["stop", "length"] | None = None


class ChatChunk(BaseModel):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoiceOut]
    usage: UsageOut | None = None
    system_fingerprint: str


class ModelInfo(BaseModel):
    """Extension: what stands behind a name."""

    use_case: str | None
    route: str
    base_model: str


class ModelOut(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "tunefork"
    tunefork: ModelInfo


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelOut]
