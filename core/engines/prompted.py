"""An engine with a use case's words around every request: instruction, demonstrations, adapter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from core.engines.base import Engine, OnDone, Result
from core.prompts import Demonstration, demonstrated, instructed
from core.types import Delta, Request


@dataclass(frozen=True)
class PromptedEngine:
    """`engine`, asked with an instruction, demonstrations and an adapter. Does not own `engine`."""

    engine: Engine
    instruction: str = ""
    answer_format: str = ""
    demonstrations: tuple[Demonstration, ...] = ()
    adapter: str | None = None
    """Folder of a PEFT adapter."""

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
        messages = instructed(request.messages, self.instruction, self.answer_format)
        messages = demonstrated(messages, self.demonstrations)
        return replace(request, messages=messages, adapter=self.adapter or request.adapter)

    def complete(self, requests: Sequence[Request], on_done: OnDone | None = None) -> list[Result]:
        return self.engine.complete([self.prompted(r) for r in requests], on_done)

    def stream(self, request: Request) -> Iterator[Delta]:
        return self.engine.stream(self.prompted(request))

    def close(self) -> None:
        """The wrapped engine belongs to whoever made it, and stays open."""
