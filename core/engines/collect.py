"""The caller's half of a batch: results arrive on a queue in any order and leave in the order of the requests."""

from __future__ import annotations

from queue import SimpleQueue

from core.engines.base import OnDone, Result


def collect(out: SimpleQueue[tuple[int, Result]], count: int, on_done: OnDone | None) -> list[Result]:
    """The `count` results of a batch by index; waits for them, and reports each from this thread as it comes."""
    results: dict[int, Result] = {}
    while len(results) < count:
        index, result = out.get()
        results[index] = result
        if on_done is not None:
            on_done(index, result)
    return [results[index] for index in range(count)]
