"""Stored responses: what a later request may go on from, for 30 days."""

from __future__ import annotations

import json
import time
from typing import Any, NamedTuple

from serve.state import State

Json = dict[str, Any]
KEPT_S = 30 * 24 * 3600
"""As at OpenAI."""

LONGEST = 500
"""Responses in one conversation."""


class Stored(NamedTuple):
    response: Json
    input: list[Json]
    """The items of its own request, without those of the responses before it."""


class Responses:
    """The responses in `state`, each seen by the key that made it only."""

    def __init__(self, state: State) -> None:
        self._state = state

    def add(self, owner: str, response: Json, items: list[Json]) -> None:
        """Store a response, and forget those that are too old."""
        with self._state.change() as db:
            db.execute("DELETE FROM responses WHERE created_at < ?", (int(time.time()) - KEPT_S,))
            db.execute(
                "INSERT INTO responses (id, owner, created_at, response, input) VALUES (?, ?, ?, ?, ?)",
                (response["id"], owner, response["created_at"], json.dumps(response), json.dumps(items)),
            )

    def get(self, owner: str, id_: str) -> Stored | None:
        row = self._state.one("SELECT response, input FROM responses WHERE id = ? AND owner = ?", (id_, owner))
        return None if row is None else Stored(json.loads(row["response"]), json.loads(row["input"]))

    def delete(self, owner: str, id_: str) -> bool:
        """Whether there was one."""
        with self._state.change() as db:
            return db.execute("DELETE FROM responses WHERE id = ? AND owner = ?", (id_, owner)).rowcount > 0

    def conversation(self, owner: str, id_: str) -> list[Json] | None:
        """All items up to and with the response `id_`, oldest first; None when one of them is gone."""
        parts: list[list[Json]] = []
        following: str | None = id_
        while following is not None:
            stored = self.get(owner, following)
            if stored is None or len(parts) >= LONGEST:
                return None
            parts.append([*stored.input, *stored.response["output"]])
            following = stored.response["previous_response_id"]
        return [item for part in reversed(parts) for item in part]
