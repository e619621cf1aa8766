"""Function calls put into prompts that know none."""

from __future__ import annotations

import json

import pytest

from core.engines.grammar import schema_error
from core.engines.tokens import _turn
from core.engines.tools import as_text, forced_schema, held_to_choice
from core.types import Message, Request, Tool, ToolCall

WEATHER = Tool("weather", "Weather of a city.", '{"type": "object", "properties": {"city": {"type": "string"}}}')
CLOCK = Tool("clock")
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'


def test_a_demanded_call_is_the_schema_of_the_answer() -> None:
    request = Request((Message("user", "?"),), tools=(WEATHER, CLOCK), tool_choice=WEATHER)
    schema = json.loads(held_to_choice(request).sampling.json_schema or "")
    assert schema["properties"]["name"] == {"const": "weather"}
    assert schema["properties"]["arguments"] == json.loads(WEATHER.parameters)
    assert (
        len(json.loads(forced_schema(Request((), tools=(WEATHER, CLOCK), tool_choice="required")) or "")["anyOf"]) == 2
    )
    assert forced_schema(Request((), tools=(WEATHER,))) is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [('{"city": "Oslo"}', {"city": "Oslo"}), ('{"city": "Os', '{"city": "Os'), ("[1]", "[1]"), ("", "")],
)
def test_templates_get_arguments_as_an_object_where_they_are_one(arguments: str, told: object) -> None:
    turn = _turn(Message("assistant", "", (ToolCall("call_1", "weather", arguments),)))
    assert turn["tool_calls"][0]["function"]["arguments"] == told


NESTED = {
    "$defs": {
        "Person": {"type": "object", "properties": {"boss": {"$ref": "#/$defs/Person"}}, "default": {"$ref": "#/x"}}
    },
    "properties": {"who": {"$ref": "#/$defs/Person"}, "default": {"$ref": "#"}, "$ref": {"type": "string"}},
}
"""Of a property called `default` the schema is one; of the keyword `default` the value is none."""


@pytest.mark.parametrize(("before", "place"), [((), "#"), ((CLOCK,), "#/anyOf/1")])
def test_references_of_a_demanded_call_lead_to_the_functions_own_parts(before: tuple[Tool, ...], place: str) -> None:
    tool = Tool("hire", parameters=json.dumps(NESTED))
    whole = json.loads(forced_schema(Request((), tools=(*before, tool), tool_choice="required")) or "")
    schema = (whole["anyOf"][1] if before else whole)["properties"]["arguments"]
    person = {"$ref": f"{place}/properties/arguments/$defs/Person"}
    assert schema["properties"] == {
        "who": person,
        "default": {"$ref": f"{place}/properties/arguments"},
        "$ref": {"type": "string"},
    }
    assert schema["$defs"]["Person"] == {
        "type": "object",
        "properties": {"boss": person},
        "default": {"$ref": "#/x"},
    }
    assert schema["type"] == "object"
    assert schema_error(json.dumps(whole)) is None


def test_calls_and_results_in_the_history_become_text() -> None:
    turns = (
        Message("user", "Oslo?"),
        Message("assistant", "", (ToolCall("call_1", "weather", '{"city": "Oslo"}'),)),
        Message("tool", "rain", tool_call_id="call_1"),
    )
    system, *rest = as_text(turns, (WEATHER,))
    assert system.role == "system"
    assert '"name": "weather"' in system.content
    assert rest == [
        Message("user", "Oslo?"),
        Message("assistant", CALL),
        Message("user", "<tool_response>\nrain\n</tool_response>"),
    ]
    assert as_text((Message("system", "Be kind."), *turns), (WEATHER,))[0].content.startswith("Be kind.\n\n")
