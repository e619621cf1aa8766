"""Progress on stderr: a bar on a terminal, a line every few seconds elsewhere, nothing when told so."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    def __call__(self, done: int, total: int | None = None, /) -> None:
        """Another `done` items are finished; `total` replaces what was planned, where the plan has changed."""
        ...


PLAIN_INTERVAL_S = 10.0


def say(text: str) -> None:
    """One line to the person watching; never to stdout, which belongs to results."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def progress(what: str, total: int, unit: str = "items") -> Iterator[Advance]:
    """A bar named `what` over `total` units for the block."""
    if sys.stderr.isatty():
        yield from _bar(what, total)
    else:
        yield from _lines(what, total, unit)


def _bar(what: str, total: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda n, total=None: bar.update(task, advance=n, total=total)


def _lines(what: str, total: int, unit: str) -> Iterator[Advance]:
    done = 0
    start = last = time.monotonic()

    def advance(n: int, planned: int | None = None, /) -> None:
        nonlocal done, last, total
        done += n
        total = total if planned is None else planned
        now = time.monotonic()
        if now - last >= PLAIN_INTERVAL_S and done < total:
            last = now
            say(f"{what}: {done}/{total} {unit}, {now - start:.0f} s")

    yield advance
    say(f"{what}: {done}/{total} {unit}, {time.monotonic() - start:.1f} s")
