"""Answers that are handed on piece by piece from the thread that has them, rather than waited for by one that asks.

A stream that is iterated wakes its caller's thread for every piece. Where the pieces come from a socket, that costs more
than all the rest that is done with them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Protocol, cast, runtime_checkable

from core.engines.base import Engine
from core.types import Delta, Request

Sink = Callable[[Delta], bool]
"""Takes a piece, from any one thread at a time, and does not wait; False: nobody wants the rest."""


@runtime_checkable
class Pushing(Protocol):
    """An Engine that can do better than be iterated."""

    def push(self, request: Request, sink: Sink) -> None: ...


def push(engine: Engine, request: Request, sink: Sink) -> None:
    """Give `sink` the pieces of `engine.stream(request)`, the last with the completion; returns at the answer's end, or
    soon after `sink` has had enough.

    Raises:
        EngineError: as `stream` does.
    """
    if isinstance(engine, Pushing):
        engine.push(request, sink)
        return
    push_each(engine.stream(request), sink)


def push_each(deltas: Iterator[Delta], sink: Sink) -> None:
    """Give `sink` all of `deltas` that it wants, and close them."""
    with closing(cast(Generator[Delta, None, None], deltas)):
        for delta in deltas:
            if not sink(delta):
                return
