"""Function calls put into prompts that know none."""

from __future__ import annotations

import json

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
