"""How much a key may ask for in a minute.

A bucket that refills all the time, as OpenAI describes its own limits. Written here because what an answer costs is
known only when it has been given: tokens are charged afterwards and may leave the bucket in debt, which the counting
libraries (`limits`, `slowapi`) have no notion of: they refuse a charge that does not fit.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from serve.keys import ApiKey

Clock = Callable[[], float]
MINUTE_S = 60.0


class Bucket:
    """Holds up to `limit` units and refills with as many a minute. Thread-safe."""

    def __init__(self, limit: int, clock: Clock = time.monotonic) -> None:
        self.limit = limit
        self._clock = clock
        self._level = float(limit)
        self._at = clock()
        self._lock = threading.Lock()

    def take(self, amount: float) -> float:
        """0 when `amount` was taken; else the seconds until it could be, and nothing is taken.

        More than the bucket ever holds is taken from a full one, which is in debt then.
        """
        with self._lock:
            level = self._refilled()
            needed = min(amount, self.limit)
            if level >= needed:
                self._level -= amount
                return 0.0
            return self._seconds(needed - level)

    def charge(self, amount: float) -> None:
        """Take `amount` (give it back when negative), whatever is left."""
        with self._lock:
            self._level = min(float(self.limit), self._refilled() - amount)

    def remaining(self) -> int:
        with self._lock:
            return max(0, math.floor(self._refilled() + 1e-6))

    def reset_s(self) -> float:
        """Seconds until it is full."""
        with self._lock:
            return self._seconds(self.limit - self._refilled())

    def _refilled(self) -> float:
        now = self._clock()
        self._level = min(float(self.limit), self._level + (now - self._at) * self.limit / MINUTE_S)
        self._at = now
        return self._level

    def _seconds(self, units: float) -> float:
        return max(0.0, units) * MINUTE_S / self.limit


class Wait(NamedTuple):
    """Why a request must wait, and for how long."""

    what: str
    """requests | tokens"""
    limit: int
    seconds: float


class KeyLimits:
    """The buckets of every key that has limits. A key whose limits change gets full buckets."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[tuple[str, str], Bucket] = {}
        self._lock = threading.Lock()

    def admit(self, key: ApiKey, tokens: int) -> Wait | None:
        """None when the request may run: it and `tokens`, an estimate that `settle` corrects, are counted."""
        requests, spent = self._of(key)
        if spent is not None and (seconds := spent.take(tokens)):
            return Wait("tokens", spent.limit, seconds)
        if requests is not None and (seconds := requests.take(1)):
            if spent is not None:
                spent.charge(-tokens)
            return Wait("requests", requests.limit, seconds)
        return None

    def settle(self, key: ApiKey, estimated: int, tokens: int) -> None:
        """Put the tokens that a request has really cost in the place of the estimate."""
        _, spent = self._of(key)
        if spent is not None:
            spent.charge(tokens - estimated)

    def headers(self, key: ApiKey) -> dict[str, str]:
        """OpenAI's x-ratelimit headers; none for a key without limits."""
        values: dict[str, str] = {}
        for what, bucket in zip(("requests", "tokens"), self._of(key), strict=True):
            if bucket is not None:
                values[f"x-ratelimit-limit-{what}"] = str(bucket.limit)
                values[f"x-ratelimit-remaining-{what}"] = str(bucket.remaining())
                values[f"x-ratelimit-reset-{what}"] = duration(bucket.reset_s())
        return values

    def _of(self, key: ApiKey) -> tuple[Bucket | None, Bucket | None]:
        return self._bucket(key.id, "requests", key.requests_per_minute), self._bucket(
            key.id, "tokens", key.tokens_per_minute
        )

    def _bucket(self, id: str, what: str, limit: int | None) -> Bucket | None:
        if limit is None:
            return None
        with self._lock:
            bucket = self._buckets.get((id, what))
            if bucket is None or bucket.limit != limit:
                bucket = self._buckets[id, what] = Bucket(limit, self._clock)
            return bucket


def duration(seconds: float) -> str:
    """As OpenAI writes it: 850ms, 1s, 6m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    whole = math.ceil(seconds)
    return f"{whole // 60}m{whole % 60}s" if whole >= 60 else f"{whole}s"
