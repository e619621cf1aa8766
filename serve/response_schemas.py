"""The body of POST /v1/responses, and its input items as messages for an engine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
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
    joined,
    refuse_unsupported,
    text_or_parts,
)
from serve.response_tools import CHOICE, SEARCH, ToolIn, choice_of
from serve.schemas import MAX_MESSAGES
from serve.tool_schemas import MAX_TOOLS, Name, Schema, check_enforceable, chosen

UNSUPPORTED = frozenset(
    (
        *("access_programs", "background_options", "context_management", "conversation", "image", "max_tool_calls"),
        *("moderation", "prompt", "reasoning"),
    )
)
"""Fields of OpenAI's responses that this server cannot honour, and so refuses by name."""

Includable = Literal["message.output_text.logprobs", "file_search_call.results"]


_TEXT = {"input_text": "text", "output_text": "text", "refusal": "refusal"}
Content = Annotated[
    Text,
    BeforeValidator(partial(joined, kinds=_TEXT, beside=("annotations", "logprobs"))),
    text_or_parts(_TEXT),
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
    """As the model wrote them."""
    id: Text | None = None
    status: Status | None = None


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


class TextFormat(Strict):
    type: Literal["text", "json_object", "json_schema"]
    name: Name | None = None
    description: Text | None = None
    schema_: Annotated[Schema | None, Field(alias="schema")] = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _whole(self) -> TextFormat:
        own = [self.name, self.schema_]
        if any((self.type == "json_schema") == (field is None) for field in own):
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
    tool_choice: Annotated[Any, BeforeValidator(choice_of), WithJsonSchema(CHOICE)] = "auto"
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
        if sum(tool.type == "file_search" for tool in self.tools) > 1:
            raise at("tools", "hold more than one file_search; one is searched", "unsupported_value")
        some = self.tool_choice if isinstance(self.tool_choice, Mapping) else {}
        if SEARCH in [some, *some.get("tools", ())] and self.searched() is None:
            raise at("tool_choice", "names file_search, which is not among the tools")
        _, choice = self.choice()
        if choice not in ("auto", "none") and self.json_schema() is not None:
            raise at("text.format", "cannot be held to where a function must be called")
        return self

    def choice(self) -> tuple[tuple[Tool, ...], ToolChoice | Tool]:
        """The functions, and which of them must be called."""
        given, allowed = self.tool_choice, None
        if isinstance(given, Mapping) and given["type"] == "allowed_tools":
            given, allowed = given["mode"], [tool["name"] for tool in given["tools"] if tool != SEARCH]
        word = given if isinstance(given, str) else None
        name = None if word is not None else given.get("name")
        tools = [
            Tool(t.name or "", t.description or "", json.dumps(t.parameters or {"type": "object"}), t.strict)
            for t in self.tools
            if t.type == "function"
        ]
        if word == "required" and (not tools or allowed == []) and self.searched() is not None:
            word = "auto"  # what must be called is the search, which every question leads to
        return chosen(tools, word, name, "tools[{}].parameters", allowed)

    def searched(self) -> ToolIn | None:
        """The search that is wanted."""
        given = self.tool_choice
        if isinstance(given, Mapping) and given["type"] == "allowed_tools" and SEARCH not in given["tools"]:
            return None
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
