"""Who used how much: requests, tokens and money by day, key, use case and base model."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from serve.state import State

log = logging.getLogger("tunefork.serve")

FLUSH_S = 1.0


class Use(NamedTuple):
    """What one request came to."""

    key: str
    use_case: str
    """"" for a base model."""
    base_model: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Prices:
    """US dollars per million tokens."""

    input_usd_per_1m: float = 0.0
    output_usd_per_1m: float = 0.0

    def of(self, use: Use) -> float:
        return (use.prompt_tokens * self.input_usd_per_1m + use.completion_tokens * self.output_usd_per_1m) / 1e6


class UsageBook:
    """Adds up uses in memory and stores the sums every second, in a thread of its own: nothing waits for the disk.

    A server that is killed loses the last second's.
    """

    def __init__(self, state: State, prices: Prices | None = None) -> None:
        self._state = state
        self._prices = prices or Prices()
        self._lock = threading.Lock()
        self._pending: dict[tuple[str, str, str, str], list[float]] = defaultdict(lambda: [0, 0, 0, 0.0])
        rows = state.all("SELECT key, sum(usd) AS usd FROM usage GROUP BY key")
        self._spent: defaultdict[str, float] = defaultdict(float, {row["key"]: float(row["usd"] or 0) for row in rows})
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._flush_on, name="tunefork-usage", daemon=True)
        self._thread.start()

    def add(self, use: Use) -> None:
        usd = self._prices.of(use)
        day = datetime.now(UTC).date().isoformat()
        with self._lock:
            self._spent[use.key] += usd
            sums = self._pending[day, use.key, use.use_case, use.base_model]
            for at, value in enumerate((1, use.prompt_tokens, use.completion_tokens, usd)):
                sums[at] += value

    def spent(self, key: str) -> float:
        """US dollars of the key's whole life."""
        with self._lock:
            return self._spent[key]

    def flush(self) -> None:
        with self._lock:
            pending, self._pending = self._pending, defaultdict(lambda: [0, 0, 0, 0.0])
        if not pending:
            return
        with self._state.change() as db:
            db.executemany(
                "INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                " requests = requests + excluded.requests, prompt_tokens = prompt_tokens + excluded.prompt_tokens,"
                " completion_tokens = completion_tokens + excluded.completion_tokens, usd = usd + excluded.usd",
                [(*names, *sums) for names, sums in pending.items()],
            )

    def close(self) -> None:
        """Store what is left."""
        self._ended.set()
        self._thread.join()
        self.flush()

    def _flush_on(self) -> None:
        while not self._ended.wait(FLUSH_S):
            try:
                self.flush()
            except sqlite3.Error as exc:
                log.error("usage could not be stored: %s", exc)


def usage_rows(state: State, since: str = "") -> list[dict[str, Any]]:
    """The sums by day, key, use case and base model, from the ISO date `since` on."""
    return [dict(row) for row in state.all("SELECT * FROM usage WHERE day >= ? ORDER BY day, key, use_case", (since,))]
