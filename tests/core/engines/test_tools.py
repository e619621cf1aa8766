"""Function calls read out of text, and put into prompts that know none."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.engines.tools import ToolReader, as_text, forced_schema, held_to_choice
from core.types import Message, Request, Tool, ToolCall

WEATHER = Tool("weather", "Weather of a city.", '{"type": "object", "properties": {"city": {"type": "string"}}}')
CLOCK = Tool("clock")
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'
BARE = '{"name": "weather", "parameters": {"city": "Oslo"}}'


def read(text: str, cuts: list[int] | None = None, **fields: Any) -> tuple[str, list[tuple[str, Any]]]:
    reader = ToolReader(Request((Message("user", "?"),), tools=(WEATHER, CLOCK), **fields))
    edges = [0, *sorted(c % (len(text) + 1) for c in cuts or ()), len(text)]
    shown = "".join(reader.push(text[a:b]) for a, b in pairwise(edges)) + reader.finish()
    return shown, [(call.name, json.loads(call.arguments)) for call in reader.calls]


OSLO = ("weather", {"city": "Oslo"})


@pytest.mark.parametrize(
    ("text", "shown", "calls"),
    [
        (CALL, "", [OSLO]),
        (f"\n{CALL}\n", "", [OSLO]),
        (f"I look. {CALL}", "I look.", [OSLO]),
        (f"I look. {CALL} Done.", "I look.  Done.", [OSLO]),
        (f'{CALL}\n<tool_call>{{"name": "clock"}}</tool_call>', "", [OSLO, ("clock", {})]),
        (CALL.removesuffix("</tool_call>"), "", [OSLO]),
        (BARE, "", [OSLO]),
        (f"[{BARE}, {BARE}]", "", [OSLO, OSLO]),
        ('{"name": "weather", "arguments": "{\\"city\\": \\"Oslo\\"}"}', "", [OSLO]),
        ('{"name": "nobody", "arguments": {}}', '{"name": "nobody", "arguments": {}}', []),
        ("<tool_call>what?</tool_call> yes", "<tool_call>what?</tool_call> yes", []),
        ("a < b and <tool", "a < b and <tool", []),
        ("{1, 2}", "{1, 2}", []),
        ("  plain ", "  plain ", []),
        (f"see {BARE}", f"see {BARE}", []),
    ],
)
def test_calls_are_taken_out_of_the_text(text: str, shown: str, calls: list[Any]) -> None:
    assert read(text) == (shown, calls)


@given(
    st.lists(st.sampled_from([CALL, BARE, "<tool_call>", "</tool_call>", " ", "text", "{", "<", "\n"]), max_size=6),
    st.lists(st.integers(0, 500), max_size=8),
)
def test_what_is_read_does_not_depend_on_how_the_text_arrives(parts: list[str], cuts: list[int]) -> None:
    assert read("".join(parts), cuts) == read("".join(parts))


def test_without_tools_every_piece_passes_at_once() -> None:
    reader = ToolReader(Request((Message("user", "?"),)))
    assert reader.push(CALL) == CALL
    assert reader.finish() == ""


def test_only_the_first_call_counts_where_one_is_allowed() -> None:
    assert read(f"{CALL}{CALL} and more", parallel_tool_calls=False) == ("", [OSLO])


def test_tools_that_are_switched_off_are_text() -> None:
    assert read(CALL, tool_choice="none") == (CALL, [])


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
