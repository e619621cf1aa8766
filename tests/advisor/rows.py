"""Short ways to make rows in tests."""

from __future__ import annotations

from typing import Any

from core.rows import Row
from core.types import Message


def row(asked: str, *answers: str, **more: Any) -> Row:
    return Row(more.pop("id", asked), (Message("user", asked),), answers, **more)


def gold(*answers: str) -> Row:
    """A row of which only the gold answers matter."""
    return row("?", *answers)


def labelled(counts: dict[str, int]) -> list[Row]:
    """Rows with labels as answers, `counts` of each; inputs all differ."""
    return [row(f"{label} number {i} of them", label) for label, n in counts.items() for i in range(n)]
