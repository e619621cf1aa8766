"""Engine work beside the event loop: bounded, and cancellable.

Engines block, so each answer is made by a thread of its own that sends its pieces to the loop. A thread holds a slot
until it has really ended, not until its client has left. Closing the generator that makes the answer, in its own
thread, is what cancels the engine's work.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")
Body = Callable[[], Generator[T, None, None]]
"""Makes the pieces of one answer; runs in a worker thread."""

RUNNING = 64
WAITING = 256


class QueueFull(Exception):
    """More work is waiting than the server takes on."""


@dataclass(frozen=True)
class _End:
    error: Exception | None = None


class Starter:
    """Starts threads in a thread of its own: a start waits until the new thread has run, and beside an engine that keeps
    every core busy that is milliseconds each, which the event loop must not spend."""

    def __init__(self) -> None:
        self._mains: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        threading.Thread(target=self._run, name="tunefork-starter", daemon=True).start()

    def start(self, main: Callable[[], None]) -> None:
        self._mains.put(main)

    def close(self) -> None:
        self._mains.put(None)

    def _run(self) -> None:
        while (main := self._mains.get()) is not None:
            threading.Thread(target=main, name="tunefork-answer", daemon=True).start()


class Workers:
    """Runs up to `running` bodies at once, first come, first served; up to `waiting` more wait for their turn."""

    def __init__(self, running: int = RUNNING, waiting: int = WAITING) -> None:
        self._slots = asyncio.Semaphore(running)
        self._most = running + waiting
        self._starter = Starter()
        self._taken = 0
        self._works: set[Work[object]] = set()

    @property
    def busy(self) -> int:
        """Bodies that run or wait."""
        return self._taken

    def start(self, bodies: Sequence[Body[T]]) -> Work[T]:
        """Run `bodies` side by side. Call from the event loop.

        Raises:
            QueueFull: they would wait behind too many others; none was started.
        """
        if self._taken + len(bodies) > self._most:
            raise QueueFull
        self._taken += len(bodies)
        work: Work[T] = Work(len(bodies), self._slots, self._starter)
        for index, body in enumerate(bodies):
            task = asyncio.get_running_loop().create_task(work.run(index, body))
            work.tasks.append(task)
            task.add_done_callback(self._free)
        return work

    def close(self) -> None:
        """No body starts any more."""
        self._starter.close()

    def _free(self, _task: asyncio.Task[None]) -> None:
        self._taken -= 1


class Work(Generic[T]):
    """The pieces of several bodies as they come, each with the index of its body."""

    def __init__(self, bodies: int, slots: asyncio.Semaphore, starter: Starter) -> None:
        self.tasks: list[asyncio.Task[None]] = []
        self._open = bodies
        self._slots = slots
        self._starter = starter
        self._pieces: asyncio.Queue[tuple[int, T | _End]] = asyncio.Queue()
        self._cancelled = threading.Event()
        self._waiting: set[asyncio.Task[None]] = set()

    async def pieces(self) -> AsyncIterator[tuple[int, T]]:
        """(index of the body, piece) until all bodies have ended. The first failure cancels the rest and is raised."""
        while self._open:
            index, piece = await self._pieces.get()
            if not isinstance(piece, _End):
                yield index, piece
                continue
            self._open -= 1
            if piece.error is not None:
                self.cancel()
                raise piece.error

    def cancel(self) -> None:
        """Let no body start that has not, and stop the others at their next piece. Twice is harmless."""
        self._cancelled.set()
        for task in list(self._waiting):
            task.cancel()

    async def run(self, index: int, body: Body[T]) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._waiting.add(task)
        try:
            await self._slots.acquire()
        finally:
            self._waiting.discard(task)
        ended = asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()

        def finish(end: _End) -> None:
            self._slots.release()
            self._pieces.put_nowait((index, end))
            if not ended.done():
                ended.set_result(None)

        def main() -> None:
            end = _End()
            try:
                self._drain(index, body, loop)
            except Exception as exc:  # noqa: BLE001 - carried to the event loop, and raised there
                end = _End(exc)
            with suppress(RuntimeError):  # the loop has closed: nobody listens any more
                loop.call_soon_threadsafe(finish, end)

        self._starter.start(main)
        await ended

    def _drain(self, index: int, body: Body[T], loop: asyncio.AbstractEventLoop) -> None:
        if self._cancelled.is_set():
            return
        with closing(body()) as pieces:
            for piece in pieces:
                if self._cancelled.is_set():
                    return
                loop.call_soon_threadsafe(self._pieces.put_nowait, (index, piece))
