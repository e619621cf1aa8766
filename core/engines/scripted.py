"""An engine that answers from a script: for tests that need to know what the model says, when, and when it fails."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

from core.engines.answer import StopStrings
from core.engines.base import OnDone, Result
from core.engines.tool_reader import ToolReader
from core.engines.tools import held_to_choice
from core.errors import ContextTooLong, EngineError, EngineUnavailable
from core.types import Completion, Delta, FinishReason, Request, TokenLogprob, Usage

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
        request = held_to_choice(request)
        prompt = sum(self.count_tokens(text) for text in _asked(request))
        if self._window is not None and prompt + 1 > self._window:
            raise ContextTooLong(prompt, self._window)
        room = request.sampling.max_tokens if self._window is None else self._window - prompt
        limit = min(request.sampling.max_tokens, room)
        tokens = _tokens(self._answer(request))
        stop, reader = StopStrings(request.sampling.stop), ToolReader(request)
        text, made, calls = "", 0, 0
        logprobs: list[TokenLogprob] = []
        wanted = request.sampling.top_logprobs
        for token in tokens[:limit]:
            if self._delay_s:
                time.sleep(self._delay_s)
            made += 1
            told = () if wanted is None else (_certain(token, wanted),)
            logprobs += told
            piece = reader.push(stop.push(token))
            new, calls = tuple(reader.pieces[calls:]), len(reader.pieces)
            if piece or told or new:
                text += piece
                yield Delta(piece, tool_calls=new, logprobs=told)
            if stop.found or reader.done:
                break
        rest = reader.push(stop.finish()) + reader.finish()
        if rest or reader.pieces[calls:]:
            text += rest
            yield Delta(rest, tool_calls=tuple(reader.pieces[calls:]))
        cut = not stop.found and not reader.done and len(tokens) > limit
        reason: FinishReason = "length" if cut else reader.reason("stop")
        yield Delta(
            "",
            Completion(
                text,
                reason,
                Usage(prompt, made),
                time.monotonic() - started,
                tool_calls=reader.calls,
                logprobs=None if wanted is None else tuple(logprobs),
            ),
        )

    def _answer(self, request: Request) -> str:
        if isinstance(self._script, Mapping):
            question = _asked(request)[-1]
            if question not in self._script:
                raise EngineError(f"the script has no answer to {question!r}")
            answer = self._script[question]
        else:
            answer = self._script(request)
        if isinstance(answer, EngineError):
            raise answer
        if request.sampling.json_schema is not None:
            _check(answer, request.sampling.json_schema)
        return answer


def _asked(request: Request) -> list[str]:
    if request.prompt is None:
        return [message.content for message in request.messages]
    return [request.prompt if isinstance(request.prompt, str) else " ".join(map(str, request.prompt))]


def _check(answer: str, schema: str) -> None:
    """A script cannot be held to a schema, only be checked against it."""
    import jsonschema

    try:
        jsonschema.validate(json.loads(answer), json.loads(schema))
    except (ValueError, jsonschema.ValidationError) as exc:
        raise EngineError(f"the script's answer {answer!r} does not follow the schema") from exc


def _certain(token: str, top: int) -> TokenLogprob:
    alternatives = ((token, 0.0, token.encode()),) if top else ()
    return TokenLogprob(token, 0.0, token.encode(), alternatives)


def _tokens(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+$", text)
