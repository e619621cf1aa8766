"""Answers that are handed on piece by piece from the thread that has them, rather than waited for by one that asks.

A stream that is iterated wakes its caller's thread for every piece. Where the pieces come from a socket, that costs more
than all the rest that is done with them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from queue import SimpleQueue
from typing import Protocol, cast, runtime_checkable

from core.engines.base import Engine, Result
from core.errors import EngineError
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


class Pushed:
    """In place of the queue of an answer (core.engines.collect.Out): its pieces go on at once, its end is waited for."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._ends: SimpleQueue[Result] = SimpleQueue()
        self._failed: Exception | None = None
        self._unwanted = False
        self._cancel: Callable[[], object] | None = None

    def put(self, item: tuple[int, Delta | Result]) -> None:
        """Called by whoever makes the answer; what the sink raises is kept for `wait`."""
        piece = item[1]
        if not isinstance(piece, Delta):
            self._ends.put(piece)
        elif not self._unwanted and not self._takes(piece):
            self._unwanted = True
            if self._cancel is not None:
                self._cancel()

    def wait(self, cancel: Callable[[], object]) -> None:
        """Give the sink the end of the answer once it is there.

        Args:
            cancel: ends the work, which then still puts an end; called as soon as the sink has had enough.

        Raises:
            EngineError: the answer ended with it.
        """
        self._cancel = cancel
        if self._unwanted:
            cancel()
        end = self._ends.get()
        if self._failed is not None:
            raise self._failed
        if self._unwanted:
            return
        if isinstance(end, EngineError):
            raise end
        self._sink(Delta("", end))

    def _takes(self, piece: Delta) -> bool:
        try:
            return self._sink(piece)
        except Exception as exc:  # noqa: BLE001 - crosses threads: raised where the answer was asked for
            self._failed = exc
            return False
