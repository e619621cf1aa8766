"""The scripted engine does what its script says."""

from __future__ import annotations

import pytest

from core.engines.scripted import ScriptedEngine
from core.errors import EngineError, EngineTimeout, EngineUnavailable
from core.types import Completion, Message, Request


def _ask(text: str) -> Request:
    return Request((Message("user", text),))


def test_answers_come_from_a_table_or_a_function() -> None:
    table = ScriptedEngine({"hi": "hello there"})
    function = ScriptedEngine(lambda request: request.messages[-1].content.upper())
    assert [getattr(r, "text", r) for r in table.complete([_ask("hi")])] == ["hello there"]
    assert [getattr(r, "text", r) for r in function.complete([_ask("hi")])] == ["HI"]


def test_a_question_outside_the_script_is_a_failed_call() -> None:
    hit, miss = ScriptedEngine({"hi": "hello"}).complete([_ask("hi"), _ask("who?")])
    assert isinstance(hit, Completion)
    assert isinstance(miss, EngineError)
    assert "'who?'" in str(miss)


def test_a_scripted_failure_is_a_value_in_a_batch_and_raised_in_a_stream() -> None:
    engine = ScriptedEngine({"slow": EngineTimeout("too slow")})
    (result,) = engine.complete([_ask("slow")])
    assert isinstance(result, EngineTimeout)
    with pytest.raises(EngineTimeout):
        list(engine.stream(_ask("slow")))


def test_a_dead_engine_loses_the_batch() -> None:
    with pytest.raises(EngineUnavailable):
        ScriptedEngine({"hi": EngineUnavailable("gone")}).complete([_ask("hi")])


def test_what_was_asked_is_recorded() -> None:
    engine = ScriptedEngine({"a": "1", "b": "2"})
    engine.complete([_ask("a"), _ask("b")])
    list(engine.stream(_ask("a")))
    assert [r.messages[-1].content for r in engine.requests] == ["a", "b", "a"]
    assert engine.running == 0
