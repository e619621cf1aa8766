"""When to ask a remote endpoint again, and when to stop asking it at all."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from core.errors import EngineUnavailable


@dataclass(frozen=True)
class Retrying:
    """Exponential back-off with jitter, or what the server asks for."""

    attempts: int = 5
    first_s: float = 0.5
    longest_s: float = 30.0
    """Also the most a server's Retry-After is honoured for: beyond it an attempt is cheaper than the wait."""

    def pause_s(self, attempt: int, asked_s: float | None) -> float:
        """Seconds to wait after `attempt` (1-based) failed; `asked_s` is the server's Retry-After."""
        if asked_s is not None:
            return min(asked_s, self.longest_s)
        # Half fixed, half random: clients that failed together do not come back together.
        return min(self.first_s * 2.0 ** (attempt - 1), self.longest_s) * random.uniform(0.5, 1.0)


class Breaker:
    """Circuit breaker: after several requests in a row found no endpoint, the next ones fail at once for a while.

    Without it a batch of hundreds would wait through the back-off of each of its items.
    """

    def __init__(self, failures: int = 3, pause_s: float = 10.0) -> None:
        self._limit = failures
        self._pause_s = pause_s
        self._failures = 0
        self._until = 0.0

    def check(self, endpoint: str) -> None:
        """Raises EngineUnavailable while the circuit is open."""
        left = self._until - time.monotonic()
        if left > 0:
            raise EngineUnavailable(
                f"{endpoint}: cannot be reached ({self._failures} requests in a row failed; next try in {left:.0f} s)"
            )

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> None:
        self._failures += 1
        if self._failures >= self._limit:
            self._until = time.monotonic() + self._pause_s
