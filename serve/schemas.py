"""The part of OpenAI's chat completions that is honoured, as pydantic models: requests are strict, responses complete.

A field of OpenAI's that is not declared here is refused by name, one that is declared with a single value is accepted
only with it ("off"), and everything else is unknown. `null` means "not given", as it does at OpenAI.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from core.types import Message, Sampling, Tool, ToolCall, ToolChoice
from serve.fields import (
    Bias,
    Content,
    Metadata,
    ModelName,
    OnlyFalse,
    Penalty,
    Seed,
    Spoken,
    Stop,
    Strict,
    Temperature,
    Text,
    TopP,
    at,
    bias_of,
    only_empty,
    refuse_unsupported,
)
from serve.tool_schemas import MAX_TOOLS, AllowedChoice, Choice, FunctionTool, NamedChoice, ResponseFormat, chosen

MAX_CHOICES = 16
MAX_MESSAGES = 2048

UNSUPPORTED = frozenset(
    (
        *("audio", "function_call", "functions", "moderation", "prediction"),
        *("reasoning_effort", "verbosity", "web_search_options"),
    )
)
"""Fields of OpenAI's chat completions that this server cannot honour, and so refuses by name."""

ROLES = ("system", "developer", "user", "assistant", "tool")


class SystemMessage(Strict):
    role: Literal["system", "developer"]
    content: Content
    name: Text | None = None
    """Accepted, and not shown to the model: chat templates have no place for it. Likewise below."""


class UserMessage(Strict):
    role: Literal["user"]
    content: Content
    name: Text | None = None


class CallFunctionIn(Strict):
    name: Text
    arguments: Text
    """As the model wrote them: an answer that was cut off, or went wrong, may come back too."""


class CallIn(Strict):
    id: Annotated[Text, Field(min_length=1)]
    type: Literal["function"]
    function: CallFunctionIn


class AssistantMessage(Strict):
    """An earlier answer. What this server adds to its answers may come back with them, and is not shown to the model."""

    role: Literal["assistant"]
    content: Spoken | None = None
    refusal: Text | None = None
    """What was said in place of a content."""
    tool_calls: Annotated[list[CallIn], Field(min_length=1, max_length=MAX_TOOLS)] | None = None
    name: Text | None = None
    annotations: Annotated[list[Any], AfterValidator(only_empty), Field(json_schema_extra={"maxItems": 0})] | None = (
        None
    )
    sources: list[Any] | None = None
    unknown_citations: list[Any] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> AssistantMessage:
        if self.content is None and self.refusal is None and self.tool_calls is None:
            raise PydanticCustomError("missing", "needs a content or tool_calls")
        return self


class ToolMessage(Strict):
    """What a call of a function came to."""

    role: Literal["tool"]
    content: Content
    tool_call_id: Annotated[Text, Field(min_length=1)]


def _with_known_role(message: Any) -> Any:
    """Says which roles there are; pydantic's own words for a wrong tag are about unions."""
    role = message.get("role") if isinstance(message, Mapping) else None
    if not isinstance(role, str):
        raise PydanticCustomError("value_error", "must be an object with a 'role' and a 'content'")
    if role not in ROLES:
        raise PydanticCustomError(
            "unsupported_value",
            "has the role '{role}'; supported: system, developer, user, assistant, tool",
            {"role": role[:40]},
        )
    return message


ChatMessage = Annotated[
    Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")],
    BeforeValidator(_with_known_role),
]


class StreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: OnlyFalse = False


class SampledRequest(Strict):
    """What the bodies of the endpoints that ask a model have in common: who answers, and how it decodes."""

    model: ModelName
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    stop: Stop | None = None
    seed: Seed | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    logit_bias: Bias | None = None
    user: Text | None = None
    """A label; without effect here but that a canary takes all of a user's requests or none."""

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise at("stream_options", "is only allowed when 'stream' is true")
        return self

    @property
    def with_usage(self) -> bool:
        """Whether a stream is to end with its usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(
        self, choice: int, max_tokens: int, top_logprobs: int | None, json_schema: str | None = None
    ) -> Sampling:
        """How to decode the choice number `choice`. Greedy unless the client names a temperature: that is how a use case
        was measured."""
        return Sampling(
            max_tokens=max_tokens,
            temperature=0.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            stop=tuple(self.stop or ()),
            # Choices of one seed must differ among each other, and come back the same.
            seed=None if self.seed is None else self.seed + choice,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias=bias_of(self.logit_bias or {}),
            top_logprobs=top_logprobs,
            json_schema=json_schema,
        )


class ChatRequest(SampledRequest):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[FunctionTool], Field(min_length=1, max_length=MAX_TOOLS)] | None = None
    tool_choice: Choice | None = None
    parallel_tool_calls: bool | None = None

    # Accepted and without effect here: labels and hints for a hosted service.
    metadata: Metadata | None = None
    safety_identifier: Text | None = None
    prompt_cache_key: Text | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: Text | None = None

    # Accepted only as "off", for clients that always send them.
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None
    service_tier: Literal["auto", "default"] | None = None
    store: OnlyFalse | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, value: Any) -> Any:
        refuse_unsupported(value, UNSUPPORTED)
        return value

    @model_validator(mode="after")
    def _together(self) -> ChatRequest:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise at("max_tokens", "and 'max_completion_tokens' mean the same; give one")
        if not any(m.role == "user" for m in self.messages):
            raise at("messages", "must have at least one message with the role 'user'")
        if self.top_logprobs is not None and not self.logprobs:
            raise at("top_logprobs", "needs 'logprobs' to be true")
        if self.parallel_tool_calls is not None and self.tools is None:
            raise at("parallel_tool_calls", "is only allowed with 'tools'")
        self._check_results()
        tools, choice = self.choice()
        if tools and choice not in ("auto", "none") and self.response_format and self.response_format.enforced():
            raise at("response_format", "cannot be held to where a function must be called")
        return self

    def _check_results(self) -> None:
        """Every result belongs to a call of the assistant's turn before it."""
        open_: set[str] = set()
        for i, message in enumerate(self.messages):
            if isinstance(message, ToolMessage):
                if message.tool_call_id not in open_:
                    raise at(f"messages[{i}].tool_call_id", "names no tool call of the assistant message before it")
            elif isinstance(message, AssistantMessage):
                open_ = {call.id for call in message.tool_calls or ()}
            else:
                open_ = set()

    def choice(self) -> tuple[tuple[Tool, ...], ToolChoice | Tool]:
        """The tools, and which of them must be called."""
        given, path = self.tool_choice, "tools[{}].function.parameters"
        tools = [tool.function.tool() for tool in self.tools or ()]
        if isinstance(given, NamedChoice):
            return chosen(tools, None, given.function.name, path)
        if isinstance(given, AllowedChoice):
            some = given.allowed_tools
            return chosen(tools, some.mode, None, path, [tool.function.name for tool in some.tools])
        return chosen(tools, given, None, path)

    def turns(self) -> tuple[Message, ...]:
        """The messages, as engines take them."""
        turns = []
        for m in self.messages:
            if isinstance(m, AssistantMessage):
                calls = tuple(ToolCall(c.id, c.function.name, c.function.arguments) for c in m.tool_calls or ())
                turns.append(Message("assistant", m.content or m.refusal or "", calls))
            elif isinstance(m, ToolMessage):
                turns.append(Message("tool", m.content, tool_call_id=m.tool_call_id))
            else:
                turns.append(Message("user" if m.role == "user" else "system", m.content))
        return tuple(turns)
