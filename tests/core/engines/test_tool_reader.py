"""Function calls read out of text as it comes."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.engines.tool_reader import ToolReader, joined, with_calls
from core.types import Completion, Message, Request, Tool, Usage

WEATHER = Tool("weather", "Weather of a city.", '{"type": "object", "properties": {"city": {"type": "string"}}}')
CLOCK = Tool("clock")
STRICT = Tool("strict", "", '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}', True)
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'
BARE = '{"name": "weather", "parameters": {"city": "Oslo"}}'
LAWFUL = '{"name": "strict", "arguments": {"n": 1}}'
TWO = '[{"name": "weather", "arguments": {"city": "}{\\"]"}, "id": "x"}, {"name": "clock", "arguments": {}}]'


def request(**fields: Any) -> Request:
    return Request((Message("user", "?"),), tools=(WEATHER, CLOCK, STRICT), **fields)


def as_it_came(text: str, cuts: list[int] | None = None, **fields: Any) -> tuple[str, list[tuple[str, str]]]:
    reader = ToolReader(request(**fields))
    edges = [0, *sorted(c % (len(text) + 1) for c in cuts or ()), len(text)]
    shown = "".join(reader.push(text[a:b]) for a, b in pairwise(edges)) + reader.finish()
    return shown, [(call.name, call.arguments) for call in reader.calls]


def read(text: str, **fields: Any) -> tuple[str, list[tuple[str, Any]]]:
    shown, calls = as_it_came(text, **fields)
    return shown, [(name, json.loads(arguments)) for name, arguments in calls]


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
        (f"{BARE} is that.", " is that.", [OSLO]),
        (TWO, "", [("weather", {"city": '}{"]'}), ("clock", {})]),
        (f"<tool_call>\n{TWO}\n</tool_call>", "", [("weather", {"city": '}{"]'}), ("clock", {})]),
        (f"[{BARE}, {LAWFUL}]", "", [OSLO, ("strict", {"n": 1})]),
        (f"[{BARE}, {LAWFUL.replace('1', 'null')}]", f", {LAWFUL.replace('1', 'null')}]", [OSLO]),
        (f"<tool_call>{BARE.removesuffix('}')}</tool_call>{CALL}", "", [OSLO, OSLO]),
    ],
)
def test_calls_are_taken_out_of_the_text(text: str, shown: str, calls: list[Any]) -> None:
    assert read(text) == (shown, calls)


@given(
    st.lists(
        st.sampled_from(
            [
                *(CALL, BARE, TWO, TWO[1:], f"<tool_call>{TWO}</tool_call>", CALL.replace('"Oslo"', "Oslo")),
                *(CALL.replace("weather", "strict"), LAWFUL, '{"name": "weather",'),
                *("<tool_call>", "</tool_call>", " ", "text", "{", "}", ",", "]", "<", "\n", '"'),
            ]
        ),
        max_size=6,
    ),
    st.lists(st.integers(0, 500), max_size=8),
)
def test_what_is_read_does_not_depend_on_how_the_text_arrives(parts: list[str], cuts: list[int]) -> None:
    assert as_it_came("".join(parts), cuts) == as_it_came("".join(parts))


def test_without_tools_every_piece_passes_at_once() -> None:
    reader = ToolReader(Request((Message("user", "?"),)))
    assert reader.push(CALL) == CALL
    assert reader.finish() == ""


def test_only_the_first_call_counts_where_one_is_allowed() -> None:
    assert read(f"{CALL}{CALL} and more", parallel_tool_calls=False) == ("", [OSLO])


def test_tools_that_are_switched_off_are_text() -> None:
    assert read(CALL, tool_choice="none") == (CALL, [])


@pytest.mark.parametrize("text", [CALL, BARE, f"[{BARE}, {BARE}]"])
def test_arguments_are_let_out_as_they_come(text: str) -> None:
    reader = ToolReader(request())
    begun = text.index(': {"city') + len(': {"city')
    for char in text[:begun]:
        assert reader.push(char) == ""
    first, *rest = reader.pieces
    assert (first.index, first.name, first.arguments) == (0, "weather", "")
    assert "".join(piece.arguments for piece in rest) == '{"city'
    assert [(piece.id, piece.name) for piece in rest] == [("", "")] * len(rest)
    for char in text[begun:]:
        assert reader.push(char) == ""
    assert reader.finish() == ""
    assert [call.arguments for call in joined(reader.pieces)] == ['{"city": "Oslo"}'] * text.count("Oslo")


def test_demanded_strict_call_comes_in_pieces_and_a_free_one_once_it_is_lawful() -> None:
    free, demanded = ToolReader(request()), ToolReader(request(tool_choice=STRICT))
    for char in LAWFUL[:-1]:
        assert free.push(char) == demanded.push(char) == ""
    assert free.pieces == []
    assert len(demanded.pieces) > 2
    free.push("}")
    free.finish()
    assert [piece.arguments for piece in free.pieces] == ["", '{"n": 1}']


@pytest.mark.parametrize(("reason", "cut"), [("length", 10), ("stop", 10), ("tool_calls", 0)])
def test_call_that_is_cut_off_is_not_made(reason: Any, cut: int) -> None:
    text = CALL.removesuffix("}</tool_call>")
    ended = Completion(text[: len(text) - cut], "stop" if cut == 0 else reason, Usage(1, 1), 0.0)
    completion = with_calls(request(), ended)
    assert completion.finish_reason == reason
    (call,) = completion.tool_calls
    assert call.arguments == '{"city": "Oslo"}'[: 16 - cut]


def test_what_a_model_wrote_in_place_of_arguments_is_passed_on() -> None:
    assert as_it_came(CALL.replace('"Oslo"', "Oslo")) == ("", [("weather", '{"city": Oslo}')])
    assert as_it_came(CALL.replace('"Oslo"}}', "Oslo")) == ("", [("weather", '{"city": Oslo')])
