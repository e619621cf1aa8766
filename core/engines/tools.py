"""Function calls put before a text model, the same on every engine that answers in plain text.

In: a chat template that knows `tools` gets them; for one that does not, they are described in the system prompt, and
calls and their results stand in the turns as tagged text. Out: a call is read from the answer's text. A call that the
client demands (`tool_choice`) is enforced through a JSON Schema of its name and arguments.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from core.types import Message, Request, Tool, ToolCall

OPEN, CLOSE = "<tool_call>", "</tool_call>"
"""Round a call in the answer: Hermes' and Qwen's tags, and our own convention for templates without tools."""

_DESCRIPTION = """You may call functions. To call one, answer with only this, and with real arguments:
{open}{{"name": "FUNCTION", "arguments": {{"NAME": VALUE}}}}{close}
The result then comes back between <tool_response> tags. Where no function is needed, just answer.

Functions, each with the JSON Schema of its arguments:
{functions}"""

_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keywords of a schema that hold schemas by names of the client's own."""
_VALUES = ("const", "enum", "default", "examples")
"""Keywords that hold values, in which `$ref` is a key like any other."""


def forced_schema(request: Request) -> str | None:
    """JSON Schema of the call that `request` demands; None where it leaves the choice to the model."""
    choice = request.tool_choice
    if choice == "required":
        demanded: Sequence[Tool] = request.tools
    elif isinstance(choice, Tool):
        demanded = (choice,)
    else:
        return None
    many = len(demanded) > 1
    calls = [_call_schema(tool, f"#/anyOf/{i}" if many else "#") for i, tool in enumerate(demanded)]
    return json.dumps({"anyOf": calls} if many else calls[0])


def _call_schema(tool: Tool, place: str) -> dict[str, Any]:
    """Schema of a call of `tool`, to stand at `place` of the whole schema."""
    # Arguments are an object, also where their schema does not say so.
    arguments = {"type": "object", **json.loads(tool.parameters)}
    if "$id" not in arguments:
        arguments = _moved(arguments, f"{place}/properties/arguments")
    return {
        "type": "object",
        "properties": {"name": {"const": tool.name}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _moved(schema: Any, place: str) -> Any:
    """`schema` with the references to its own parts (`#/$defs/...`) as they read where it stands at `place` of another."""
    if isinstance(schema, list):
        return [_moved(item, place) for item in schema]
    if not isinstance(schema, dict):
        return schema
    moved: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "$ref" and isinstance(value, str) and (value == "#" or value.startswith("#/")):
            moved[key] = place + value[1:]
        elif key in _BY_NAME and isinstance(value, dict):
            moved[key] = {name: _moved(item, place) for name, item in value.items()}
        else:
            moved[key] = value if key in _VALUES else _moved(value, place)
    return moved


def offered(request: Request) -> tuple[Tool, ...]:
    """The tools that the model is told of."""
    if request.tool_choice == "none":
        return ()
    return (request.tool_choice,) if isinstance(request.tool_choice, Tool) else request.tools


def held_to_choice(request: Request) -> Request:
    """`request` with a demanded call as the schema of its answer."""
    schema = forced_schema(request)
    if schema is None:
        return request
    return replace(request, sampling=replace(request.sampling, json_schema=schema))


def as_text(messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[Message, ...]:
    """`messages` without tool calls or tool turns, for templates that know none: both become tagged text."""
    turns = [_plain(message) for message in messages]
    if not tools:
        return tuple(turns)
    functions = "\n".join(json.dumps(function(tool), ensure_ascii=False) for tool in tools)
    text = _DESCRIPTION.format(open=OPEN, close=CLOSE, functions=functions)
    if turns and turns[0].role == "system":
        return (Message("system", f"{turns[0].content}\n\n{text}"), *turns[1:])
    return (Message("system", text), *turns)


def function(tool: Tool) -> dict[str, Any]:
    """`tool` as OpenAI's `function` object."""
    strict = {"strict": True} if tool.strict else {}
    return {"name": tool.name, "description": tool.description, "parameters": json.loads(tool.parameters), **strict}


def function_call(call: ToolCall) -> dict[str, Any]:
    """`call` as OpenAI's `tool_calls` entry."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _plain(message: Message) -> Message:
    if message.role == "tool":
        return Message("user", f"<tool_response>\n{message.content}\n</tool_response>")
    if message.tool_calls:
        calls = [f"{OPEN}{_call_text(call)}{CLOSE}" for call in message.tool_calls]
        return Message(message.role, "\n".join([*filter(None, [message.content]), *calls]))
    return message


def _call_text(call: ToolCall) -> str:
    return f'{{"name": {json.dumps(call.name, ensure_ascii=False)}, "arguments": {call.arguments}}}'
