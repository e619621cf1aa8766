"""Answers are asked for once, whatever run asks; failures are asked for again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from advisor.answers import AnswerCache
from core.engines.base import OnDone, Result
from core.errors import EngineError, EngineTimeout, EngineUnavailable
from core.types import Completion, Delta, Message, Request, Sampling, Usage


class Counting:
    """Answers with the question in capitals; `fails` fail, `dies_after` answers the engine is gone."""

    model = "counting"
    context_window = None

    def __init__(self, fails: Sequence[str] = (), dies_after: int | None = None) -> None:
        self.asked: list[str] = []
        self._fails = fails
        self._dies_after = dies_after

    def count_tokens(self, text: str) -> int:
        return len(text)

    def complete(self, requests: Sequence[Request], on_done: OnDone | None = None) -> list[Result]:
        results: list[Result] = []
        for i, request in enumerate(requests):
            if self._dies_after is not None and i >= self._dies_after:
                raise EngineUnavailable("gone")
            text = request.messages[-1].content
            self.asked.append(text)
            failed = text in self._fails
            results.append(EngineTimeout("slow") if failed else Completion(text.upper(), "stop", Usage(3, 2), 0.1))
            if on_done is not None:
                on_done(i, results[-1])
        return results

    def stream(self, request: Request) -> Iterator[Delta]:
        raise NotImplementedError

    def close(self) -> None:
        pass


def requests(*texts: str, max_tokens: int = 8) -> list[Request]:
    return [Request((Message("user", text),), Sampling(max_tokens=max_tokens)) for text in texts]


def texts(results: Sequence[Result]) -> list[str]:
    return [r.text if isinstance(r, Completion) else type(r).__name__ for r in results]


def test_a_second_run_asks_nothing(tmp_path: Path) -> None:
    first = AnswerCache(tmp_path / "a.jsonl").ask("closed", Counting(), "m", requests("a", "b", "a"))
    again = Counting()
    second = AnswerCache(tmp_path / "a.jsonl").ask("closed", again, "m", requests("a", "b", "a"))
    assert texts(first.results) == texts(second.results) == ["A", "B", "A"]
    assert again.asked == []
    assert (first.cached, second.cached) == (1, 3)


@pytest.mark.parametrize(("identity", "max_tokens"), [("other model", 8), ("m", 9)])
def test_another_model_or_decoding_is_another_question(tmp_path: Path, identity: str, max_tokens: int) -> None:
    cache = AnswerCache(tmp_path / "a.jsonl")
    cache.ask("closed", Counting(), "m", requests("a"))
    engine = Counting()
    cache.ask("closed", engine, identity, requests("a", max_tokens=max_tokens))
    assert engine.asked == ["a"]


def test_a_failed_call_is_a_failure_now_and_a_question_next_time(tmp_path: Path) -> None:
    first = AnswerCache(tmp_path / "a.jsonl").ask("closed", Counting(fails=["b"]), "m", requests("a", "b"))
    assert texts(first.results) == ["A", "EngineTimeout"]
    assert isinstance(first.results[1], EngineError)
    engine = Counting()
    second = AnswerCache(tmp_path / "a.jsonl").ask("closed", engine, "m", requests("a", "b"))
    assert engine.asked == ["b"]
    assert texts(second.results) == ["A", "B"]


def test_an_engine_that_dies_leaves_what_it_answered(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable):
        AnswerCache(tmp_path / "a.jsonl").ask("closed", Counting(dies_after=2), "m", requests("a", "b", "c"))
    engine = Counting()
    AnswerCache(tmp_path / "a.jsonl").ask("closed", engine, "m", requests("a", "b", "c"))
    assert engine.asked == ["c"]
