"""What every engine can do. Anything that answers a chat is an Engine.

One interface, so that a remedy is a composition: a RagEngine wraps an engine,
a PromptedEngine wraps an engine, a classification head is an engine. The
advisor measures the same composition that the server serves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from core.errors import EngineError
from core.types import Completion, Delta, Request

Result = Completion | EngineError
"""A failed call is a value in the list, not an exception: one bad item must not lose its batch."""

OnDone = Callable[[int, Result], None]
"""Called once an item is finished, from the calling thread, with its index in the batch."""


class Engine(Protocol):
    """Thread-safe: the server calls one engine from many threads at once."""

    @property
    def model(self) -> str:
        """Name of the base model that answers, as the user named it."""
        ...

    @property
    def context_window(self) -> int | None:
        """Most tokens of prompt + completion; None when the engine cannot know."""
        ...

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` by the model's tokenizer; an upper estimate where there is none (remote)."""
        ...

    def complete(self, requests: Sequence[Request], on_done: OnDone | None = None) -> list[Result]:
        """Answers in the order of `requests`, batched as the engine likes.

        Raises:
            EngineUnavailable: the engine as a whole is gone; no item was or will be answered.
        """
        ...

    def stream(self, request: Request) -> Iterator[Delta]:
        """Pieces of one answer; the last carries the whole `Completion`. Closing the iterator cancels the work.

        Raises:
            EngineError: before or between pieces, when the call fails.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds. Calling it twice is harmless."""
        ...
