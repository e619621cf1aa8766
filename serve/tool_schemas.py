"""Functions a model may call, and the shape an answer may be held to, as requests carry them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from core.types import ANY_OBJECT, Tool, ToolChoice
from serve.fields import Strict, Text, at

MAX_TOOLS = 128
MAX_SCHEMA = 100_000
"""Characters of a JSON Schema."""

Name = Annotated[Text, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


def _schema(value: dict[str, Any]) -> dict[str, Any]:
    try:
        text = json.dumps(value)
    except (ValueError, RecursionError):
        raise PydanticCustomError("value_error", "is not a JSON Schema") from None
    if len(text) > MAX_SCHEMA:
        raise PydanticCustomError("too_long", "a schema of at most 100,000 characters is read")
    return value


Schema = Annotated[dict[str, Any], AfterValidator(_schema), WithJsonSchema({"type": "object"})]


def _of_an_object(value: dict[str, Any]) -> dict[str, Any]:
    if value.get("type", "object") != "object":
        raise PydanticCustomError("value_error", "must be the schema of an object: its 'type' is not 'object'")
    return value


Parameters = Annotated[Schema, AfterValidator(_of_an_object)]
"""JSON Schema of a call's arguments."""


@lru_cache(maxsize=256)
def _error(schema: str) -> str | None:
    from core.engines.grammar import schema_error

    return schema_error(schema)


def check_enforceable(schema: dict[str, Any], param: str) -> None:
    """Raises a 400 that names `param` when answers cannot be held to `schema`."""
    if (error := _error(json.dumps(schema))) is not None:
        raise at(param, f"is a schema that cannot be enforced: {error}", "unsupported_value")


class FunctionDefinition(Strict):
    name: Name
    description: Text | None = None
    parameters: Parameters | None = None
    strict: bool = False
    """A call whose arguments do not follow `parameters` is never reported as one."""

    def tool(self) -> Tool:
        parameters = self.parameters or {"type": "object", "properties": {}}
        return Tool(self.name, self.description or "", json.dumps(parameters), self.strict)


class FunctionTool(Strict):
    type: Literal["function"]
    function: FunctionDefinition


class _ChosenFunction(Strict):
    name: Name


class NamedChoice(Strict):
    type: Literal["function"]
    function: _ChosenFunction


class _Allowed(Strict):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedChoice], Field(min_length=1, max_length=MAX_TOOLS)]


class AllowedChoice(Strict):
    """Some of the tools, as if the others were not there."""

    type: Literal["allowed_tools"]
    allowed_tools: _Allowed


def _choice(value: Any) -> Any:
    """A word, a function, or some; says so in one sentence, where a union would report each of its members."""
    if isinstance(value, str) and value in ("none", "auto", "required"):
        return value
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind == "function":
        return NamedChoice.model_validate(value)
    if kind == "allowed_tools":
        return AllowedChoice.model_validate(value)
    raise PydanticCustomError("unsupported_value", "must be 'none', 'auto', 'required', a function, or allowed_tools")


def object_schema(**fields: dict[str, Any]) -> dict[str, Any]:
    """JSON schema of an object that has these fields and, but for nulls, no others."""
    return {
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": {"type": "null"},
    }


WORDS: dict[str, Any] = {"type": "string", "enum": ["none", "auto", "required"]}
MODE: dict[str, Any] = {"type": "string", "enum": ["auto", "required"]}
NAME: dict[str, Any] = {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"}
_NAMED = object_schema(type={"const": "function"}, function=object_schema(name=NAME))
_SOME = {"type": "array", "items": _NAMED, "minItems": 1, "maxItems": MAX_TOOLS}
_ALLOWED = object_schema(type={"const": "allowed_tools"}, allowed_tools=object_schema(mode=MODE, tools=_SOME))
Choice = Annotated[
    str | NamedChoice | AllowedChoice,
    BeforeValidator(_choice),
    WithJsonSchema({"anyOf": [WORDS, _NAMED, _ALLOWED]}),
]


def chosen(
    tools: Sequence[Tool], choice: str | None, name: str | None, path: str, allowed: Collection[str] | None = None
) -> tuple[tuple[Tool, ...], ToolChoice | Tool]:
    """The tools and the choice among them, as engines take them.

    Args:
        choice: none, auto or required; None when the client left it out, or named a function.
        name: the function that must be called.
        path: where in `tools` the schema of number {} stands.
        allowed: the functions that the model may know of; None: all.

    Raises:
        PydanticCustomError: an unknown function, a name twice, a choice without tools, a schema that cannot be enforced.
    """
    if not tools and (choice == "required" or name is not None):
        raise at("tool_choice", "needs 'tools' to choose from")
    names = [tool.name for tool in tools]
    if len(set(names)) < len(names):
        raise at("tools", "name the same function twice")
    for wanted in [*([] if name is None else [name]), *(allowed or ())]:
        if wanted not in names:
            raise at("tool_choice", f"names the function {wanted!r}, which is not among the tools")
    for i, tool in enumerate(tools):
        demanded = choice == "required" or tool.name == name
        if tool.strict or demanded:
            check_enforceable(json.loads(tool.parameters), path.format(i))
    if name is not None:
        return tuple(tools), tools[names.index(name)]
    shown = tuple(tool for tool in tools if allowed is None or tool.name in allowed)
    return shown, "none" if choice == "none" else "required" if choice == "required" else "auto"


class JsonSchemaFormat(Strict):
    name: Name
    description: Text | None = None
    schema_: Annotated[Schema, Field(alias="schema")]
    strict: bool = False
    """Accepted either way: the schema is always enforced."""


class ResponseFormat(Strict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None

    @model_validator(mode="after")
    def _whole(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise at("response_format.json_schema", "is missing")
        if self.type != "json_schema" and self.json_schema is not None:
            raise at("response_format.json_schema", f"has no place in the type '{self.type}'")
        if self.json_schema is not None:
            check_enforceable(self.json_schema.schema_, "response_format.json_schema.schema")
        return self

    def enforced(self) -> str | None:
        """The schema, as engines take it; None for text."""
        if self.type == "text":
            return None
        return ANY_OBJECT if self.json_schema is None else json.dumps(self.json_schema.schema_)
