from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from core.engines.base import OnDone, Result
from core.engines.prompted import PromptedEngine
from core.engines.pushing import push
from core.errors import ContextTooLong
from core.search_settings import Grounding
from core.types import Completion, Delta, Message, Request, Sampling, Source, Usage
from rag.engine import RagEngine
from rag.evidence import NOT_IN_DOCUMENTS


@dataclass
class Echo:
    """Answers with its prompt, refuses one longer than its window, and counts a token a word."""

    context_window: int | None = None
    model: str = "echo"
    asked: list[Request] = field(default_factory=list)

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def complete(self, requests: Sequence[Request], on_done: OnDone | None = None) -> list[Result]:
        results = [self._answer(request) for request in requests]
        for i, result in enumerate(results):
            if on_done is not None:
                on_done(i, result)
        return results

    def stream(self, request: Request) -> Iterator[Delta]:
        result = self._answer(request)
        if isinstance(result, ContextTooLong):
            raise result
        yield Delta(result.text)
        yield Delta("", result)

    def close(self) -> None: ...

    def _answer(self, request: Request) -> Completion | ContextTooLong:
        self.asked.append(request)
        text = "\n".join(message.content for message in request.messages)
        tokens = self.count_tokens(text)
        if self.context_window is not None and tokens + request.sampling.max_tokens > self.context_window:
            return ContextTooLong(tokens + request.sampling.max_tokens, self.context_window)
        return Completion(text, "stop", Usage(tokens, 1), 0.5)


@dataclass
class Shelf:
    """Finds the same passages for every text, and remembers the texts."""

    words: int = 5
    texts: list[str] = field(default_factory=list)

    def search(self, texts: Sequence[str], top_k: int) -> list[list[Source]]:
        self.texts.extend(texts)
        return [
            [Source(n, f"d{n}", f"T{n}", f"passage{n} " * self.words, 1 / n) for n in range(1, top_k + 1)]
            for _ in texts
        ]


def ask(text: str, max_tokens: int = 5) -> Request:
    return Request((Message("user", text),), Sampling(max_tokens))


def numbers(result: Result) -> list[int]:
    assert isinstance(result, Completion)
    return [source.number for source in result.sources]


def test_the_answer_carries_the_passages_that_stood_in_the_prompt() -> None:
    (result,) = RagEngine(Echo(), Shelf(), 3).complete([ask("Why?")])
    assert numbers(result) == [1, 2, 3]
    assert isinstance(result, Completion)
    assert "[3] T3: passage3" in result.text
    assert result.text.endswith("Why?")


def test_it_retrieves_for_the_last_user_message() -> None:
    shelf = Shelf()
    chat = Request((Message("user", "Hello"), Message("assistant", "Hi"), Message("user", "And tea?")))
    RagEngine(Echo(), shelf, 1).complete([chat])
    assert shelf.texts == ["And tea?"]


def test_a_chat_without_a_question_is_answered_without_passages() -> None:
    shelf = Shelf()
    (result,) = RagEngine(Echo(), shelf, 2).complete([Request((Message("system", "Be kind."),))])
    assert numbers(result) == []
    assert shelf.texts == []


def test_passages_that_do_not_fit_are_left_out_lowest_first() -> None:
    echo = Echo(context_window=80)
    (result,) = RagEngine(echo, Shelf(words=12), 6).complete([ask("Why?")])
    assert 0 < len(numbers(result)) < 6
    assert numbers(result) == list(range(1, len(numbers(result)) + 1))
    assert len(echo.asked) == 1


def test_the_words_of_a_wrapped_prompt_are_made_room_for() -> None:
    echo = Echo(context_window=100)
    engine = RagEngine(PromptedEngine(echo, instruction="be brief " * 20), Shelf(words=10), 4)
    done: list[tuple[int, Result]] = []
    results = engine.complete([ask("Why?"), ask("How?")], lambda i, result: done.append((i, result)))
    assert all(0 < len(numbers(result)) < 4 for result in results)
    assert sorted(i for i, _ in done) == [0, 1]
    assert [result for _, result in sorted(done, key=lambda pair: pair[0])] == results


def test_a_question_too_long_by_itself_is_an_error_of_that_item_alone() -> None:
    results = RagEngine(Echo(context_window=60), Shelf(), 1).complete([ask("why " * 90), ask("Why?")])
    assert isinstance(results[0], ContextTooLong)
    assert numbers(results[1]) == [1]


Pieces = Callable[[RagEngine, Request], list[Delta]]


def _pushed(engine: RagEngine, request: Request) -> list[Delta]:
    deltas: list[Delta] = []
    push(engine, request, lambda delta: deltas.append(delta) or True)  # type: ignore[func-returns-value]
    return deltas


@pytest.fixture(params=["streamed", "pushed"])
def pieces(request: pytest.FixtureRequest) -> Pieces:
    return _pushed if request.param == "pushed" else lambda engine, asked: list(engine.stream(asked))


def test_a_push_that_has_had_enough_is_given_no_more() -> None:
    taken: list[Delta] = []
    push(RagEngine(Echo(), Shelf(), 1), ask("Why?"), lambda delta: bool(taken.append(delta)))  # type: ignore[func-returns-value]
    assert len(taken) == 1


def test_streaming_gives_the_sources_with_the_last_piece(pieces: Pieces) -> None:
    deltas = pieces(RagEngine(Echo(), Shelf(), 2), ask("Why?"))
    last = deltas[-1].completion
    assert last is not None
    assert [source.number for source in last.sources] == [1, 2]
    assert "".join(delta.text for delta in deltas) == last.text


def test_streaming_makes_room_too(pieces: Pieces) -> None:
    engine = RagEngine(PromptedEngine(Echo(context_window=100), instruction="be brief " * 20), Shelf(words=10), 4)
    last = pieces(engine, ask("Why?"))[-1].completion
    assert last is not None
    assert 0 < len(last.sources) < 4


def test_streaming_a_question_too_long_raises(pieces: Pieces) -> None:
    with pytest.raises(ContextTooLong):
        pieces(RagEngine(Echo(context_window=60), Shelf(), 1), ask("why " * 90))


def test_latency_includes_the_retrieval() -> None:
    (result,) = RagEngine(Echo(), Shelf(), 1).complete([ask("Why?")])
    assert isinstance(result, Completion)
    assert result.latency_s > 0.5


@dataclass
class Sure:
    """Finds one passage that is as much evidence as the text says, and answers may cite."""

    def search(self, texts: Sequence[str], top_k: int) -> list[list[Source]]:
        return [[Source(1, "d1", "", "it is so", 1.0, {"evidence": float(text)})] for text in texts]


def test_without_evidence_it_abstains_and_asks_no_model(pieces: Pieces) -> None:
    echo = Echo()
    engine = RagEngine(echo, Sure(), 1, Grounding(abstain=0.5))
    done: list[int] = []
    results = engine.complete([ask("0.9"), ask("0.1")], lambda i, _: done.append(i))
    assert numbers(results[0]) == [1]
    assert isinstance(results[1], Completion)
    assert (results[1].text, results[1].sources, results[1].usage) == (NOT_IN_DOCUMENTS, (), Usage(0, 0))
    assert sorted(done) == [0, 1]
    assert len(echo.asked) == 1
    streamed = pieces(engine, ask("0.1"))
    assert "".join(delta.text for delta in streamed) == NOT_IN_DOCUMENTS
    assert streamed[-1].completion is not None
    assert len(echo.asked) == 1


def test_an_abstention_counts_as_a_refusal() -> None:
    from advisor.refusals import is_refusal

    assert is_refusal(NOT_IN_DOCUMENTS)


def test_what_an_answer_cites_is_told_from_what_it_makes_up(pieces: Pieces) -> None:
    class Citing(Echo):
        def _answer(self, request: Request) -> Completion | ContextTooLong:
            return Completion("It is so [2], they say [9].", "stop", Usage(1, 1), 0.1)

    engine = RagEngine(Citing(), Shelf(), 3)
    (result,) = engine.complete([ask("Why?")])
    last = pieces(engine, ask("Why?"))[-1].completion
    for completion in (result, last):
        assert isinstance(completion, Completion)
        assert [source.metadata["cited"] for source in completion.sources] == [False, True, False]
        assert completion.unknown_citations == (9,)
