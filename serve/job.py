"""One job as it stands: what kinds there are, and which of them run beside each other."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from serve.state import Row

JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Lane = Literal["compute", "ingest"]

LANES: dict[str, Lane] = {"fine_tuning": "compute", "advise": "compute", "vector_store": "ingest"}
"""Of each kind of job. One job of a lane runs at a time: two trainings at once take longer than one after the other."""


@dataclass(frozen=True)
class Job:
    """One job as it stands."""

    seq: int
    id: str
    kind: str
    subject: str
    """What it works on: a use case, a vector store, a model."""
    spec: dict[str, Any]
    state: JobState
    attempts: int
    cancelling: bool
    created_at: int
    started_at: int | None
    finished_at: int | None
    error: dict[str, Any] | None
    """{"code", "message", "param"} of a failed job."""
    result: dict[str, Any] | None

    @property
    def over(self) -> bool:
        return self.state in ("succeeded", "failed", "cancelled")

    @classmethod
    def of(cls, row: Row) -> Job:
        def parsed(name: str) -> Any:
            return None if row[name] is None else json.loads(row[name])

        return cls(
            seq=row["seq"],
            id=row["id"],
            kind=row["kind"],
            subject=row["subject"],
            spec=parsed("spec"),
            state=row["state"],
            attempts=row["attempts"],
            cancelling=bool(row["cancelling"]),
            created_at=row["created_at"],
            started_at=row["started_at"],
            finished_at=row["finished_at"],
            error=parsed("error"),
            result=parsed("result"),
        )


@dataclass(frozen=True)
class Event:
    seq: int
    at: int
    level: str
    message: str
