"""An engine that answers from a script: for tests that need to know what the model says, when, and when it fails."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

from core.engines.answer import StopStrings
from core.engines.base import OnDone, Result
from core.errors import ContextTooLong, EngineError, EngineUnavailable
from core.types import Completion, Delta, FinishReason, Request, Usage

Script: TypeAlias = Callable[[Request], "str | EngineError"] | Mapping[str, "str | EngineError"]
"""Answer by request, or by the text of the last message. An EngineError as answer is a call that fails so."""


class ScriptedEngine:
    """Answers `script` word by word. Deterministic; a token is a word with the space before it."""

    def __init__(
        self,
        script: Script,
        *,
        name: str = "scripted",
        context_window: int | None = None,
        delay_s: float = 0.0,
    ) -> None:
        """
        Args:
            delay_s: time each token takes.
        """
        self._script = script
        self._name = name
        self._window = context_window
        self._delay_s = delay_s
        self._lock = threading.Lock()
        self._closed = False
        self.requests: list[Request] = []
        """Everything that was asked, in order of arrival."""
        self.running = 0
        """Answers in the making: a cancelled stream is seen here."""

    @property
    def model(self) -> str:
        return self._name

    @property
    def context_window(self) -> int | None:
        return self._window

    def count_tokens(self, text: str) -> int:
        return len(_tokens(text))

    def complete(self, requests: Sequence[Request], on_done: OnDone | None = None) -> list[Result]:
        """Answers one after the other. Raises an EngineUnavailable that the script gives for any of them."""
        results: list[Result] = []
        for index, request in enumerate(requests):
            try:
                result: Result = self._whole(request)
            except EngineUnavailable:
                raise
            except EngineError as exc:
                result = exc
            results.append(result)
            if on_done is not None:
                on_done(index, result)
        return results

    def stream(self, request: Request) -> Iterator[Delta]:
        if self._closed:
            raise EngineUnavailable("the engine is closed")
        with self._lock:
            self.requests.append(request)
            self.running += 1
        try:
            yield from self._pieces(request)
        finally:
            with self._lock:
                self.running -= 1

    def close(self) -> None:
        self._closed = True

    def _whole(self, request: Request) -> Completion:
        completion = None
        for delta in self.stream(request):
            completion = delta.completion
        assert completion is not None
        return completion

    def _pieces(self, request: Request) -> Iterator[Delta]:
        started = time.monotonic()
        prompt = sum(self.count_tokens(m.content) for m in request.messages)
        if self._window is not None and prompt + 1 > self._window:
            raise ContextTooLong(prompt, self._window)
        room = request.sampling.max_tokens if self._window is None else self._window - prompt
        limit = min(request.sampling.max_tokens, room)
        tokens = _tokens(self._answer(request))
        stop = StopStrings(request.sampling.stop)
        text, made = "", 0
        for token in tokens[:limit]:
            if self._delay_s:
                time.sleep(self._delay_s)
            made += 1
            if piece := stop.push(token):
                text += piece
                yield Delta(piece)
            if stop.found:
                break
        if rest := stop.finish():
            text += rest
            yield Delta(rest)
        reason: FinishReason = "length" if not stop.found and len(tokens) > limit else "stop"
        yield Delta("", Completion(text, reason, Usage(prompt, made), time.monotonic() - started))

    def _answer(self, request: Request) -> str:
        if isinstance(self._script, Mapping):
            question = request.messages[-1].content
            if question not in self._script:
                raise EngineError(f"the script has no answer to {question!r}")
            answer = self._script[question]
        else:
            answer = self._script(request)
        if isinstance(answer, EngineError):
            raise answer
        return answer


def _tokens(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+$", text)
