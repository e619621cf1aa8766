"""An engine that answers from retrieved passages: any Engine, wrapped."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from core.engines.base import Engine, OnDone, Result
from core.engines.pushing import Sink, push, push_each
from core.errors import ContextTooLong
from core.prompts import grounded
from core.search_settings import Grounding
from core.types import Completion, Delta, Request, Source, Usage
from rag.citations import citations
from rag.evidence import NOT_IN_DOCUMENTS, insufficient

TOKENS_PER_MESSAGE = 8
"""What chat templates add to a message, generously."""

_PLAIN = Grounding()


class Searcher(Protocol):
    """What a RagEngine needs of a `rag.retrieve.Retriever`."""

    def search(self, texts: Sequence[str], top_k: int) -> list[list[Source]]: ...


class RagEngine:
    """`engine`, asked with passages for the last user message. Owns neither `engine` nor `retriever`.

    Of each passage, `metadata["cited"]` says whether the answer names its number.
    """

    def __init__(self, engine: Engine, retriever: Searcher, top_k: int, grounding: Grounding = _PLAIN) -> None:
        self._engine = engine
        self._retriever = retriever
        self._top_k = top_k
        self._grounding = grounding

    @property
    def model(self) -> str:
        return self._engine.model

    @property
    def context_window(self) -> int | None:
        return self._engine.context_window

    def count_tokens(self, text: str) -> int:
        return self._engine.count_tokens(text)

    def complete(self, requests: Sequence[Request], on_done: OnDone | None = None) -> list[Result]:
        """Answers with the passages they rest on as `sources`; `latency_s` includes the retrieval.

        Passages that do not fit the context window are left out, the lowest first. Where the passages found are too
        little evidence (`grounding.abstain`), the engine is not asked, and the answer says so.
        """
        start = time.monotonic()
        found = self._retrieved(requests)
        silent = [self._abstains(r, s) for r, s in zip(requests, found, strict=True)]
        sources = [() if no else self._fitting(r, s) for r, s, no in zip(requests, found, silent, strict=True)]
        retrieval_s = time.monotonic() - start
        results: dict[int, Result] = {}
        for at in (at for at, no in enumerate(silent) if no):
            results[at] = _abstention(retrieval_s)
            if on_done is not None:
                on_done(at, results[at])
        waiting = [at for at, no in enumerate(silent) if not no]
        while waiting:
            # What the wrapped engine adds (instruction, demonstrations) is known to it alone: where it says that a
            # prompt is too long after all, that request is asked again with fewer passages.
            batch = _Batch(waiting, sources, retrieval_s, on_done)
            answers = self._engine.complete([self._asked(requests[at], sources[at]) for at in waiting], batch.done)
            waiting = []
            for at, answer in zip(batch.places, answers, strict=True):
                if isinstance(answer, ContextTooLong) and sources[at]:
                    sources[at] = self._fewer(sources[at], answer)
                    waiting.append(at)
                else:
                    results[at] = batch.finished(at, answer)
        return [results[at] for at in range(len(requests))]

    def stream(self, request: Request) -> Iterator[Delta]:
        """Pieces of one answer; the last one's completion carries the sources."""
        found = self._found(request)
        if isinstance(found, Completion):
            yield from _told(found)
            return
        while True:
            begun = False
            try:
                for delta in self._engine.stream(self._asked(request, found.sources)):
                    begun = True
                    yield found.passed(delta)
                return
            except ContextTooLong as exc:
                found = self._with_fewer(found, exc, begun)

    def push(self, request: Request, sink: Sink) -> None:
        """As core.engines.pushing.push: the pieces of `stream`."""
        found = self._found(request)
        if isinstance(found, Completion):
            push_each(_told(found), sink)
            return
        while True:
            passing = _Passing(found, sink)
            try:
                push(self._engine, self._asked(request, found.sources), passing)
                return
            except ContextTooLong as exc:
                found = self._with_fewer(found, exc, passing.begun)

    def close(self) -> None:
        """The wrapped engine and the retriever belong to whoever made them, and stay open."""

    def _found(self, request: Request) -> _Found | Completion:
        """The passages that `request` is asked with, or the answer that there are none."""
        start = time.monotonic()
        (sources,) = self._retrieved([request])
        if self._abstains(request, sources):
            return _abstention(time.monotonic() - start)
        return _Found(self._fitting(request, sources), time.monotonic() - start)

    def _with_fewer(self, found: _Found, error: ContextTooLong, begun: bool) -> _Found:
        """For another attempt; raises `error` where there is none to make."""
        if begun or not found.sources:
            raise error
        return found._replace(sources=self._fewer(found.sources, error))

    def _retrieved(self, requests: Sequence[Request]) -> list[tuple[Source, ...]]:
        asked = {i: text for i, request in enumerate(requests) if (text := _question(request))}
        found = self._retriever.search(list(asked.values()), self._top_k) if asked else []
        by_request = dict(zip(asked, found, strict=True))
        return [tuple(by_request.get(i, ())) for i in range(len(requests))]

    def _abstains(self, request: Request, sources: Sequence[Source]) -> bool:
        text = _question(request)
        return bool(text) and insufficient(sources, self._grounding.abstain)

    def _asked(self, request: Request, sources: Sequence[Source]) -> Request:
        return replace(request, messages=grounded(request.messages, sources, self._grounding))

    def _fitting(self, request: Request, sources: tuple[Source, ...]) -> tuple[Source, ...]:
        """The first of `sources`, as many as leave room for the answer."""
        window = self._engine.context_window
        if window is None:
            return sources
        while sources:
            prompt = self._asked(request, sources)
            tokens = sum(self._engine.count_tokens(m.content) + TOKENS_PER_MESSAGE for m in prompt.messages)
            if tokens + request.sampling.max_tokens <= window:
                break
            sources = sources[:-1]
        return sources

    def _fewer(self, sources: tuple[Source, ...], error: ContextTooLong) -> tuple[Source, ...]:
        """`sources` without enough of the lowest to mend `error`; at least one goes."""
        excess = error.prompt_tokens - error.context_window
        freed = 0
        kept = list(sources)
        while kept and (freed < excess or len(kept) == len(sources)):
            freed += self._engine.count_tokens(kept.pop().text)
        return tuple(kept)


class _Found(NamedTuple):
    """What an answer is asked with."""

    sources: tuple[Source, ...]
    retrieval_s: float

    def passed(self, delta: Delta) -> Delta:
        """`delta` of the wrapped engine as ours."""
        if delta.completion is None:
            return delta
        return replace(delta, completion=_with_sources(delta.completion, self.sources, self.retrieval_s))


class _Passing:
    """Hands the wrapped engine's pieces on as ours."""

    def __init__(self, found: _Found, sink: Sink) -> None:
        self.begun = False
        self._found = found
        self._sink = sink

    def __call__(self, delta: Delta) -> bool:
        self.begun = True
        return self._sink(self._found.passed(delta))


class _Batch(NamedTuple):
    """Requests asked together, by their places in the whole."""

    places: list[int]
    sources: list[tuple[Source, ...]]
    retrieval_s: float
    on_done: OnDone | None

    def finished(self, at: int, result: Result) -> Result:
        if isinstance(result, Completion):
            return _with_sources(result, self.sources[at], self.retrieval_s)
        return result

    def done(self, i: int, result: Result) -> None:
        at = self.places[i]
        if self.on_done is not None and not (isinstance(result, ContextTooLong) and self.sources[at]):
            self.on_done(at, self.finished(at, result))


def _told(answer: Completion) -> Iterator[Delta]:
    yield Delta(answer.text)
    yield Delta("", answer)


def _question(request: Request) -> str:
    """The last user message; "" when there is none."""
    return next((m.content.strip() for m in reversed(request.messages) if m.role == "user"), "")


def _with_sources(completion: Completion, sources: Sequence[Source], retrieval_s: float) -> Completion:
    """`completion` with the passages it was made from, and what it cites checked against them."""
    found = citations(completion.text, sources)
    cited = tuple(replace(s, metadata={**s.metadata, "cited": s.number in found.cited}) for s in sources)
    return replace(
        completion,
        sources=cited,
        unknown_citations=found.unknown if sources else (),
        latency_s=completion.latency_s + retrieval_s,
    )


def _abstention(retrieval_s: float) -> Completion:
    return Completion(NOT_IN_DOCUMENTS, "stop", Usage(0, 0), retrieval_s)
