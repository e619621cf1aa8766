"""Lists as OpenAI pages them: `limit`, `order`, and cursors that are ids of objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Depends, Query

from serve.errors import ApiError

T = TypeVar("T")

Order = Literal["asc", "desc"]
Limit = Annotated[int, Query(ge=1, le=100)]
Cursor = Annotated[str | None, Query(max_length=128)]


@dataclass(frozen=True)
class Page:
    """The query parameters of a list of vector stores or of their files."""

    limit: Limit = 20
    order: Order = "desc"
    after: Cursor = None
    before: Cursor = None


Paged = Annotated[Page, Depends()]


def listing(
    items: Sequence[T], *, limit: int, order: Order = "desc", after: str | None = None, before: str | None = None
) -> dict[str, Any]:
    """A page of `items`, which come oldest first and have an `id` (or are objects as sent, with an "id").

    Raises:
        ApiError: a cursor names no item of the list.
    """
    ordered = list(items) if order == "asc" else list(reversed(items))
    ids = [_id(item) for item in ordered]
    start = 0 if after is None else _place(ids, after, "after") + 1
    end = len(ordered) if before is None else _place(ids, before, "before")
    if before is not None and after is None:
        start = max(0, end - limit)
    page = ordered[start:end][:limit]
    return {
        "object": "list",
        "data": page,
        "first_id": _id(page[0]) if page else None,
        "last_id": _id(page[-1]) if page else None,
        # What lies beyond the page in the direction that is paged: backwards only where nothing but `before` is given.
        "has_more": start > 0 if before is not None and after is None else start + len(page) < end,
    }


def not_found(kind: str, id: str, param: str) -> ApiError:
    """The 404 for an object that is not there."""
    return ApiError(404, f"there is no {kind} '{id[:80]}'", param=param, code="not_found")


def _place(ids: list[str], cursor: str, param: str) -> int:
    try:
        return ids.index(cursor)
    except ValueError:
        raise ApiError(400, f"'{cursor[:80]}' is not in this list", param=param, code="invalid_value") from None


def _id(item: Any) -> str:
    return str(item["id"] if isinstance(item, dict) else item.id)
