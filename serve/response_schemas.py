"""The body of POST /v1/responses, and its input items as messages for an engine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from core.types import ANY_OBJECT, Message, Tool, ToolCall, ToolChoice
from serve.fields import (
    Metadata,
    ModelName,
    OnlyFalse,
    Strict,
    Temperature,
    Text,
    TopP,
    at,
    refuse_in_part,
    refuse_unsupported,
)
from serve.schemas import MAX_MESSAGES
from serve.store_schemas import RankingOptions
from serve.tool_schemas import MAX_TOOLS, Name, Schema, check_enforceable, chosen

UNSUPPORTED = frozenset(
    (
        *("access_programs", "background_options", "context_management", "conversation", "image", "max_tool_calls"),
        *("moderation", "prompt", "reasoning"),
    )
)
"""Fields of OpenAI's responses that this server cannot honour, and so refuses by name."""

Includable = Literal["message.output_text.logprobs", "file_search_call.results"]


def _content(value: Any) -> Any:
    """Text parts as one string, a line each; other parts are refused by their type."""
    if not isinstance(value, list):
        return value
    texts = []
    for part in value:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in ("input_text", "output_text"):
            text = "has a part of type '{kind}'; only input_text and output_text are supported"
            raise PydanticCustomError("unsupported_value", text, {"kind": str(kind)[:40]})
        if not isinstance(part.get("text"), str):
            raise PydanticCustomError("value_error", "has a text part without a 'text' string")
        refuse_in_part(part, ("type", "text", "annotations", "logprobs", "prompt_cache_breakpoint"))
        texts.append(part["text"])
    if not texts:
        raise PydanticCustomError("value_error", "must not be an empty list")
    return "\n".join(texts)


_PART = {
    "type": "object",
    "properties": {"type": {"enum": ["input_text", "output_text"]}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
Content = Annotated[
    Text,
    BeforeValidator(_content),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": _PART, "minItems": 1}]}),
]
Status = Literal["in_progress", "completed", "incomplete"]


class MessageItem(Strict):
    type: Literal["message"]
    role: Literal["user", "assistant", "system", "developer"]
    content: Content
    id: Text | None = None
    status: Status | None = None
    phase: Text | None = None


class CallItem(Strict):
    type: Literal["function_call"]
    call_id: Annotated[Text, Field(min_length=1)]
    name: Text
    arguments: Text
    id: Text | None = None
    status: Status | None = None

    @model_validator(mode="after")
    def _object(self) -> CallItem:
        try:
            arguments = json.loads(self.arguments)
        except ValueError:
            arguments = None
        if not isinstance(arguments, dict):
            raise PydanticCustomError("value_error", "has arguments that are no JSON object")
        return self


class OutputItem(Strict):
    """What a call came to."""

    type: Literal["function_call_output"]
    call_id: Annotated[Text, Field(min_length=1)]
    output: Content
    id: Text | None = None
    status: Status | None = None


class SearchItem(Strict):
    """An earlier search, as it came back: its passages are not shown again."""

    type: Literal["file_search_call"]
    id: Text
    queries: list[Text]
    status: Text | None = None
    results: list[Any] | None = None


_KINDS = ("message", "function_call", "function_call_output", "file_search_call")


def _typed(item: Any) -> Any:
    """`item` with its type, which a message may leave out; refuses types that are not supported in plain words."""
    if not isinstance(item, Mapping):
        raise PydanticCustomError("value_error", "must be an object")
    kind = item.get("type") or "message"
    if kind not in _KINDS:
        text = "has the type '{kind}'; supported: message, function_call, function_call_output, file_search_call"
        raise PydanticCustomError("unsupported_value", text, {"kind": str(kind)[:40]})
    return {**item, "type": kind}


Item = Annotated[
    Annotated[MessageItem | CallItem | OutputItem | SearchItem, Field(discriminator="type")], BeforeValidator(_typed)
]


def _items(value: Any) -> Any:
    return [{"type": "message", "role": "user", "content": value}] if isinstance(value, str) else value


class ToolIn(Strict):
    """A function, or the search over the documents of the use case that answers."""

    type: Literal["function", "file_search"]
    name: Name | None = None
    description: Text | None = None
    parameters: Schema | None = None
    strict: bool = False
    vector_store_ids: Annotated[list[Text], Field(min_length=1, max_length=1)] | None = None
    """The use case's own name, or the id of a vector store."""
    filters: dict[str, Any] | None = None
    max_num_results: Annotated[int, Field(ge=1, le=50)] | None = None
    ranking_options: RankingOptions | None = None

    @model_validator(mode="after")
    def _whole(self) -> ToolIn:
        function = self.type == "function"
        if function and self.name is None:
            raise PydanticCustomError("missing", "needs a name")
        if function == (self.vector_store_ids is not None):
            raise PydanticCustomError("value_error", "needs 'vector_store_ids' if, and only if, it is a file_search")
        if not function and (self.name or self.description or self.parameters):
            raise PydanticCustomError("value_error", "is a file_search, which is no function")
        if not self.of_store and (self.filters or self.max_num_results or self.ranking_options):
            text = "takes 'filters', 'max_num_results' and 'ranking_options' only with the id of a vector store"
            raise PydanticCustomError("value_error", text)
        return self

    @property
    def of_store(self) -> bool:
        """Searches a vector store."""
        return self.vector_store_ids is not None and self.vector_store_ids[0].startswith("vs_")


def _choice(value: Any) -> Any:
    if value in ("none", "auto", "required"):
        return value
    if isinstance(value, Mapping):
        named = value.get("type") == "function" and set(value) == {"type", "name"} and isinstance(value["name"], str)
        if named or dict(value) == {"type": "file_search"}:
            return dict(value)
    text = "must be 'none', 'auto', 'required', a function by its name, or {'type': 'file_search'}"
    raise PydanticCustomError("unsupported_value", text)


class TextFormat(Strict):
    type: Literal["text", "json_object", "json_schema"]
    name: Name | None = None
    description: Text | None = None
    schema_: Annotated[Schema | None, Field(alias="schema")] = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _whole(self) -> TextFormat:
        if (self.type == "json_schema") != (self.schema_ is not None and self.name is not None):
            raise at("text.format", "needs a 'name' and a 'schema' if, and only if, its type is json_schema")
        if self.schema_ is not None:
            check_enforceable(self.schema_, "text.format.schema")
        return self


class TextConfig(Strict):
    format: TextFormat | None = None


class ResponseRequest(Strict):
    """The body of POST /v1/responses."""

    model: ModelName
    input: Annotated[list[Item], Field(min_length=1, max_length=MAX_MESSAGES), BeforeValidator(_items)]
    instructions: Text | None = None
    previous_response_id: Annotated[Text, Field(max_length=128)] | None = None
    store: bool = True
    stream: bool = False
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    include: list[Includable] = Field(default_factory=list)
    text: TextConfig | None = None
    tools: Annotated[list[ToolIn], Field(max_length=MAX_TOOLS, default_factory=list)]
    tool_choice: Annotated[Any, BeforeValidator(_choice), WithJsonSchema({"type": ["string", "object"]})] = "auto"
    parallel_tool_calls: bool = True
    metadata: Metadata = Field(default_factory=dict)

    # Accepted and without effect here: labels and hints for a hosted service.
    user: Text | None = None
    safety_identifier: Text | None = None
    prompt_cache_key: Text | None = None
    prompt_cache_retention: Text | None = None
    prompt_cache_options: dict[str, Any] | None = None

    # Accepted only as what this server does anyway.
    background: OnlyFalse | None = None
    truncation: Literal["disabled"] | None = None
    service_tier: Literal["auto", "default"] | None = None
    stream_options: dict[Literal["include_obfuscation"], OnlyFalse] | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, value: Any) -> Any:
        refuse_unsupported(value, UNSUPPORTED)
        return value

    @model_validator(mode="after")
    def _together(self) -> ResponseRequest:
        if self.top_logprobs and "message.output_text.logprobs" not in self.include:
            raise at("top_logprobs", "needs 'message.output_text.logprobs' in 'include'")
        _, choice = self.choice()
        if choice not in ("auto", "none") and self.json_schema() is not None:
            raise at("text.format", "cannot be held to where a function must be called")
        return self

    def choice(self) -> tuple[tuple[Tool, ...], ToolChoice | Tool]:
        """The functions, and which of them must be called."""
        word = self.tool_choice if isinstance(self.tool_choice, str) else None
        name = None if word is not None else self.tool_choice.get("name")
        tools = [
            Tool(t.name or "", t.description or "", json.dumps(t.parameters or {"type": "object"}), t.strict)
            for t in self.tools
            if t.type == "function"
        ]
        if word == "required" and not tools and self.searched() is not None:
            word = "auto"  # what must be called is the search, which every question leads to
        return chosen(tools, word, name, "tools[{}].parameters")

    def searched(self) -> ToolIn | None:
        """The search that is wanted."""
        return next((t for t in self.tools if t.vector_store_ids), None)

    def json_schema(self) -> str | None:
        """The schema of the answer, as engines take it."""
        shape = None if self.text is None else self.text.format
        if shape is None or shape.type == "text":
            return None
        return ANY_OBJECT if shape.schema_ is None else json.dumps(shape.schema_)


def turns(items: Sequence[Mapping[str, Any]], instructions: str | None) -> tuple[Message, ...]:
    """Stored items as messages: calls belong to the assistant's turn they stand in."""
    messages: list[Message] = [Message("system", instructions)] if instructions else []
    for item in items:
        if item["type"] == "message":
            text = "\n".join(part["text"] for part in item["content"])
            role = item["role"]
            messages.append(Message("system" if role == "developer" else role, text))
        elif item["type"] == "function_call":
            call = ToolCall(item["call_id"], item["name"], item["arguments"])
            last = messages.pop() if messages and messages[-1].role == "assistant" else Message("assistant", "")
            messages.append(Message("assistant", last.content, (*last.tool_calls, call)))
        elif item["type"] == "function_call_output":
            messages.append(Message("tool", item["output"], tool_call_id=item["call_id"]))
    return tuple(messages)


def unanswerable(items: Sequence[Mapping[str, Any]]) -> str | None:
    """What is wrong with a conversation as a whole; None when it can be answered."""
    called = {item["call_id"] for item in items if item["type"] == "function_call"}
    for item in items:
        if item["type"] == "function_call_output" and item["call_id"] not in called:
            return f"holds the output of a call {item['call_id']!r} that was not made"
    if not any(item["type"] == "message" and item["role"] == "user" for item in items):
        return "must hold at least one message with the role 'user'"
    return None
