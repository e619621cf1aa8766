"""Engine work beside the event loop: bounded, and cancellable.

Engines block, so each answer is made by a thread of its own that sends its pieces to the loop, or has the engine send
them. It holds a slot until it has really ended, not until its client has left. Being told that a piece is not wanted is
what cancels the engine's work.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")
Give = Callable[[T], bool]
"""Takes a piece of an answer, in any thread; False: it was not wanted, nor is the rest."""
Body = Callable[[Give[T]], None]
"""Makes the pieces of one answer; runs in a worker thread."""

RUNNING = 64
WAITING = 256


class QueueFull(Exception):
    """More work is waiting than the server takes on."""


@dataclass(frozen=True)
class _End:
    error: Exception | None = None


class Threads:
    """Threads that have done their work wait for more. Where none waits, another is started.

    That is done in a thread of its own: a start waits until the new thread has run, and beside an engine that keeps every
    core busy that is milliseconds each, which the event loop must not spend.
    """

    def __init__(self) -> None:
        self._mains: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._new: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._closed = False
        threading.Thread(target=self._start, name="tunefork-starter", daemon=True).start()

    def run(self, main: Callable[[], None]) -> None:
        with self._lock:
            waits = self._idle > 0
            self._idle -= waits
        (self._mains if waits else self._new).put(main)

    def close(self) -> None:
        """The threads end with their work."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, 0
        for _ in range(idle):
            self._mains.put(None)
        self._new.put(None)

    def _start(self) -> None:
        while (main := self._new.get()) is not None:
            threading.Thread(target=self._work, args=(main,), name="tunefork-answer", daemon=True).start()

    def _work(self, main: Callable[[], None] | None) -> None:
        while main is not None:
            main()
            with self._lock:
                if self._closed:
                    return
                self._idle += 1
            main = self._mains.get()


class Inbox:
    """Calls for the event loop from other threads: what has come by the time it looks is done in one go, in order."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._calls: deque[Callable[[], None]] = deque()
        self._woken = False

    def put(self, call: Callable[[], None]) -> None:
        """Raises RuntimeError once the loop is closed."""
        self._calls.append(call)
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._run)

    def _run(self) -> None:
        # First, so that what is put from here on wakes the loop once more, even where it is done already by then.
        self._woken = False
        for _ in range(len(self._calls)):
            self._calls.popleft()()


class Workers:
    """Runs up to `running` bodies at once, first come, first served; up to `waiting` more wait for their turn."""

    def __init__(self, running: int = RUNNING, waiting: int = WAITING) -> None:
        self._slots = asyncio.Semaphore(running)
        self._most = running + waiting
        self._threads = Threads()
        self._inbox = Inbox()
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
        work: Work[T] = Work(len(bodies), self._slots, self._threads, self._inbox)
        for index, body in enumerate(bodies):
            task = asyncio.get_running_loop().create_task(work.run(index, body))
            work.tasks.append(task)
            task.add_done_callback(self._free)
        return work

    def close(self) -> None:
        """No body starts any more."""
        self._threads.close()

    def _free(self, _task: asyncio.Task[None]) -> None:
        self._taken -= 1


class Work(Generic[T]):
    """The pieces of several bodies as they come, each with the index of its body."""

    def __init__(self, bodies: int, slots: asyncio.Semaphore, threads: Threads, inbox: Inbox) -> None:
        self.tasks: list[asyncio.Task[None]] = []
        self._open = bodies
        self._slots = slots
        self._threads = threads
        self._inbox = inbox
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

        def finish(end: _End) -> None:
            self._slots.release()
            self._pieces.put_nowait((index, end))
            if not ended.done():
                ended.set_result(None)

        def main() -> None:
            end = _End()
            try:
                if not self._cancelled.is_set():
                    body(give)
            except Exception as exc:  # noqa: BLE001 - carried to the event loop, and raised there
                end = _End(exc)
            with suppress(RuntimeError):  # the loop has closed: nobody listens any more
                self._inbox.put(partial(finish, end))

        def give(piece: T) -> bool:
            if self._cancelled.is_set():
                return False
            self._inbox.put(partial(self._pieces.put_nowait, (index, piece)))
            return True

        self._threads.run(main)
        await ended
