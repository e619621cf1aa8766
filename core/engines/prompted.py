"""An engine with a use case's words around every request: instruction, demonstrations, adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from core.engines.base import Engine, OnDone, Result
from core.engines.pushing import Sink, push
from core.prompts import Demonstration, demonstrated, instructed, placed
from core.search_settings import Place
from core.types import Delta, Request

Choose = Callable[[str], Sequence[Demonstration]]
"""Demonstrations for a question, the most telling last."""

TOKENS_PER_MESSAGE = 8
"""What chat templates add to a message, generously."""


@dataclass(frozen=True)
class PromptedEngine:
    """`engine`, asked with an instruction, demonstrations and an adapter. Does not own `engine`."""

    engine: Engine
    instruction: str = ""
    answer_format: str = ""
    demonstrations: tuple[Demonstration, ...] = ()
    adapter: str | None = None
    """Folder of a PEFT adapter."""
    choose: Choose | None = None
    """Chooses demonstrations for each question, in place of the fixed ones; those that do not fit are left out."""
    context: Place | None = None
    """Where the context that a message brings along is put (core.prompts.placed); None: it stays where it is."""

    @property
    def model(self) -> str:
        return self.engine.model

    @property
    def context_window(self) -> int | None:
        return self.engine.context_window

    def count_tokens(self, text: str) -> int:
        return self.engine.count_tokens(text)

    def prompted(self, request: Request) -> Request:
        """`request` as the wrapped engine will see it."""
        messages = instructed(placed(request.messages, self.context), self.instruction, self.answer_format)
        shots = self.demonstrations
        if self.choose is not None:
            question = next((m.content for m in reversed(messages) if m.role == "user"), "")
            shots = self._fitting(replace(request, messages=messages), self.choose(question))
        messages = demonstrated(messages, shots)
        return replace(request, messages=messages, adapter=self.adapter or request.adapter)

    def _fitting(self, request: Request, shots: Sequence[Demonstration]) -> tuple[Demonstration, ...]:
        """The last of `shots` that the context window has room for beside the request and its answer."""
        window = self.context_window
        if window is None:
            return tuple(shots)
        asked = sum(self.count_tokens(m.content) + TOKENS_PER_MESSAGE for m in request.messages)
        room = window - asked - min(request.sampling.max_tokens, window // 4)
        first = len(shots)
        while first > 0:
            shot = shots[first - 1]
            room -= self.count_tokens(shot.input) + self.count_tokens(shot.output) + 2 * TOKENS_PER_MESSAGE
            if room < 0:
                break
            first -= 1
        return tuple(shots[first:])

    def complete(self, requests: Sequence[Request], on_done: OnDone | None = None) -> list[Result]:
        return self.engine.complete([self.prompted(r) for r in requests], on_done)

    def stream(self, request: Request) -> Iterator[Delta]:
        return self.engine.stream(self.prompted(request))

    def push(self, request: Request, sink: Sink) -> None:
        push(self.engine, self.prompted(request), sink)

    def close(self) -> None:
        """The wrapped engine belongs to whoever made it, and stays open."""
