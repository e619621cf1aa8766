"""The caller's half of a call: what workers put on its queue, as a list in order or as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from queue import SimpleQueue
from typing import TypeAlias

from core.engines.base import OnDone, Result
from core.errors import EngineError
from core.types import Completion, Delta

Out: TypeAlias = "SimpleQueue[tuple[int, Delta | Result]]"
"""Index in the batch, and a piece or the end of that item."""


def collect(out: Out, count: int, on_done: OnDone | None) -> list[Result]:
    """The `count` results of a batch by index; waits for them, and reports each from this thread as it comes."""
    results: dict[int, Result] = {}
    while len(results) < count:
        index, result = out.get()
        assert not isinstance(result, Delta)
        results[index] = result
        if on_done is not None:
            on_done(index, result)
    return [results[index] for index in range(count)]


def pieces(out: Out) -> Iterator[Delta]:
    """The deltas of a single item, the last with its completion. Raises the EngineError it ends with."""
    while True:
        _, item = out.get()
        if isinstance(item, EngineError):
            raise item
        if isinstance(item, Completion):
            yield Delta("", item)
            return
        yield item
