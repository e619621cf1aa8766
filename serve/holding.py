"""Things that many use and somebody must close: counted, and closed when the last user lets go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Held(Generic[T]):
    """A value with its holders; whoever makes it is the first. `close` runs once, when the last one releases."""

    def __init__(self, value: T, close: Callable[[], None], lock: threading.RLock | None = None) -> None:
        self.value = value
        self._close = close
        self._holders = 1
        self._lock = lock or threading.RLock()

    def retain(self) -> bool:
        """One holder more; False when the value has been closed already."""
        with self._lock:
            if self._holders == 0:
                return False
            self._holders += 1
            return True

    def release(self) -> None:
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                self._close()


class KeyedLocks:
    """A lock for each key: slow work on one key does not hold up the others."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[Hashable, threading.RLock] = {}

    def __getitem__(self, key: Hashable) -> threading.RLock:
        with self._guard:
            return self._locks.setdefault(key, threading.RLock())


class Pool(Generic[T]):
    """Values opened once a key and shared by their holders; a value nobody holds any more is closed."""

    def __init__(self) -> None:
        self._locks = KeyedLocks()
        self._held: dict[Hashable, Held[T]] = {}

    def hold(self, key: Hashable, open_: Callable[[], tuple[T, Callable[[], None]]]) -> Held[T]:
        """The value of `key`, retained for the caller; opened by `open_`, which also says how to close it."""
        # The value closes under the same lock, so nobody opens it anew before its files and locks are free.
        lock = self._locks[key]
        with lock:
            held = self._held.get(key)
            if held is None or not held.retain():
                held = self._held[key] = Held(*open_(), lock)
            return held
