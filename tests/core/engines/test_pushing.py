"""Pushed answers: the same pieces as a stream's, and an end to the work when they are not wanted."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.engines import openai_wire as wire
from core.engines.base import Engine
from core.engines.prompted import PromptedEngine
from core.engines.pushing import push
from core.engines.remote import RemoteEngine
from core.engines.scripted import ScriptedEngine
from core.errors import EngineError
from core.types import Delta, Message, Request, Sampling, Tool
from tests.core.engines.endpoint import Endpoint, serving

LONG = " ".join(["word"] * 2000)


@pytest.fixture
def scripted() -> ScriptedEngine:
    return ScriptedEngine({"short": "A few words, then no more.", "long": LONG, "bad": EngineError("it fell over")})


@pytest.fixture
def endpoint(scripted: ScriptedEngine) -> Iterator[Endpoint]:
    with serving(scripted) as served:
        yield served


@pytest.fixture(params=["scripted", "remote", "prompted"])
def engine(request: pytest.FixtureRequest, scripted: ScriptedEngine) -> Iterator[Engine]:
    if request.param == "scripted":
        yield scripted
        return
    remote = RemoteEngine(request.getfixturevalue("endpoint").url, "scripted")
    yield remote if request.param == "remote" else PromptedEngine(remote, "Be brief.")
    remote.close()


def _ask(text: str, **sampling: Any) -> Request:
    return Request((Message("user", text),), Sampling(**{"max_tokens": 4000, **sampling}))


def test_what_is_pushed_is_what_is_streamed(engine: Engine) -> None:
    pushed: list[Delta] = []
    request = _ask("short", top_logprobs=1)
    push(engine, request, lambda delta: pushed.append(delta) or True)  # type: ignore[func-returns-value]
    streamed = list(engine.stream(request))
    assert "".join(delta.text for delta in pushed) == "A few words, then no more."
    assert [lp for delta in pushed for lp in delta.logprobs] == [lp for delta in streamed for lp in delta.logprobs]
    assert [delta.completion is None for delta in pushed] == [True] * (len(pushed) - 1) + [False]
    end, other = pushed[-1].completion, streamed[-1].completion
    assert end is not None and other is not None
    assert (end.text, end.finish_reason, end.usage, end.logprobs) == (
        other.text,
        other.finish_reason,
        other.usage,
        other.logprobs,
    )


def test_a_piece_that_is_not_wanted_is_the_last(engine: Engine, scripted: ScriptedEngine) -> None:
    taken: list[Delta] = []
    push(engine, _ask("long"), lambda delta: len(taken) < 3 and (taken.append(delta) or True))  # type: ignore[func-returns-value]
    assert len(taken) == 3
    until = time.monotonic() + 120
    while scripted.running:
        assert time.monotonic() < until, "the work goes on though nobody wants it"
        time.sleep(0.01)


def test_a_failure_is_raised_where_the_answer_was_asked_for(engine: Engine) -> None:
    with pytest.raises(EngineError):
        push(engine, _ask("bad"), lambda _delta: True)


def test_many_answers_at_once_are_not_mixed(engine: Engine) -> None:
    found: dict[int, str] = {}

    def ask(number: int) -> None:
        pieces: list[str] = []
        push(engine, _ask("long", max_tokens=10 + number), lambda delta: pieces.append(delta.text) or True)  # type: ignore[func-returns-value]
        found[number] = "".join(pieces)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert found == {number: " ".join(["word"] * (10 + number)) for number in range(6)}


@given(
    st.lists(st.text(alphabet="aé\u2028 :", max_size=6), max_size=8), st.sampled_from(["\n", "\r\n", "\r"]), st.data()
)
def test_the_lines_of_a_stream_do_not_depend_on_its_cuts(lines: list[str], ending: str, data: st.DataObject) -> None:
    whole = "".join(f"data: {line}{ending}" for line in lines).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    parts = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]

    async def stream() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    async def read() -> list[bytes]:
        return [line async for line in wire.lines(stream()) if line]

    coroutine = read()
    try:
        coroutine.send(None)
    except StopIteration as end:
        assert end.value == [f"data: {line}".encode() for line in lines]


def test_a_request_with_tools_is_answered_with_calls(engine: Engine, scripted: ScriptedEngine) -> None:
    scripted._script = {"weather": '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'}
    pushed: list[Delta] = []
    request = Request((Message("user", "weather"),), Sampling(max_tokens=50), tools=(Tool("weather"),))
    push(engine, request, lambda delta: pushed.append(delta) or True)  # type: ignore[func-returns-value]
    end = pushed[-1].completion
    assert end is not None and end.finish_reason == "tool_calls"
    assert "".join(piece.arguments for delta in pushed for piece in delta.tool_calls) == end.tool_calls[0].arguments
