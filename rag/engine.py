"""An engine that answers from retrieved passages: any Engine, wrapped."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from core.engines.base import Engine, OnDone, Result
from core.errors import ContextTooLong
from core.prompts import grounded
from core.types import Completion, Delta, Request, Source

TOKENS_PER_MESSAGE = 8
"""What chat templates add to a message, generously."""


class Searcher(Protocol):
    """What a RagEngine needs of a `rag.retrieve.Retriever`."""

    def search(self, texts: Sequence[str], top_k: int) -> list[list[Source]]: ...


class RagEngine:
    """`engine`, asked with passages for the last user message. Owns neither `engine` nor `retriever`."""

    def __init__(self, engine: Engine, retriever: Searcher, top_k: int) -> None:
        self._engine = engine
        self._retriever = retriever
        self._top_k = top_k

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

        Passages that do not fit the context window are left out, the lowest first.
        """
        start = time.monotonic()
        sources = [self._fitting(r, s) for r, s in zip(requests, self._retrieved(requests), strict=True)]
        retrieval_s = time.monotonic() - start
        results: dict[int, Result] = {}
        waiting = list(range(len(requests)))
        while waiting:
            # What the wrapped engine adds (instruction, demonstrations) is known to it alone: where it says that a
            # prompt is too long after all, that request is asked again with fewer passages.
            batch = _Batch(waiting, sources, retrieval_s, on_done)
            answers = self._engine.complete([_grounded(requests[at], sources[at]) for at in waiting], batch.done)
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
        start = time.monotonic()
        sources = self._fitting(request, self._retrieved([request])[0])
        retrieval_s = time.monotonic() - start
        while True:
            begun = False
            try:
                for delta in self._engine.stream(_grounded(request, sources)):
                    begun = True
                    if delta.completion is not None:
                        latency_s = delta.completion.latency_s + retrieval_s
                        completion = replace(delta.completion, sources=sources, latency_s=latency_s)
                        delta = replace(delta, completion=completion)
                    yield delta
                return
            except ContextTooLong as exc:
                if begun or not sources:
                    raise
                sources = self._fewer(sources, exc)

    def close(self) -> None:
        """The wrapped engine and the retriever belong to whoever made them, and stay open."""

    def _retrieved(self, requests: Sequence[Request]) -> list[tuple[Source, ...]]:
        asked = {i: text for i, request in enumerate(requests) if (text := _question(request))}
        found = self._retriever.search(list(asked.values()), self._top_k) if asked else []
        by_request = dict(zip(asked, found, strict=True))
        return [tuple(by_request.get(i, ())) for i in range(len(requests))]

    def _fitting(self, request: Request, sources: tuple[Source, ...]) -> tuple[Source, ...]:
        """The first of `sources`, as many as leave room for the answer."""
        window = self._engine.context_window
        if window is None:
            return sources
        while sources:
            prompt = _grounded(request, sources)
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


class _Batch(NamedTuple):
    """Requests asked together, by their places in the whole."""

    places: list[int]
    sources: list[tuple[Source, ...]]
    retrieval_s: float
    on_done: OnDone | None

    def finished(self, at: int, result: Result) -> Result:
        if isinstance(result, Completion):
            return replace(result, sources=self.sources[at], latency_s=result.latency_s + self.retrieval_s)
        return result

    def done(self, i: int, result: Result) -> None:
        at = self.places[i]
        if self.on_done is not None and not (isinstance(result, ContextTooLong) and self.sources[at]):
            self.on_done(at, self.finished(at, result))


def _question(request: Request) -> str:
    """The last user message; "" when there is none."""
    return next((m.content.strip() for m in reversed(request.messages) if m.role == "user"), "")


def _grounded(request: Request, sources: Sequence[Source]) -> Request:
    return replace(request, messages=grounded(request.messages, sources))
