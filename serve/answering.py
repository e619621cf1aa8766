"""From a parsed request to the pieces of its answers: what all endpoints that ask a model have in common."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple

from fastapi import Request
from fastapi.responses import Response

from core import types
from core.engines.base import Engine
from core.engines.pushing import push
from core.types import Completion, Delta
from serve.access import caller_of, check_model
from serve.asked import Asked, asking
from serve.catalog import Catalog
from serve.errors import CHAT_NAMES, as_api_error, queue_full
from serve.leaving import ClientGone, unless_gone
from serve.metering import Meter, meter_of
from serve.served import Served, UnknownModel
from serve.store_search import StoreDocuments
from serve.workers import Give, QueueFull, Work, Workers

RETRY_AFTER_S = 1

Make = Callable[[Served, int], types.Request]
"""The engine's request of choice number n, for what answers."""


class Piece(NamedTuple):
    delta: Delta
    served: Served


class Documents(NamedTuple):
    """Documents that one request's answers rest on."""

    searcher: StoreDocuments
    top_k: int


class Answering:
    """Answers in the making. Its first piece has come, so the status of the response is decided."""

    def __init__(
        self, work: Work[Piece], first: tuple[int, Piece], rest: AsyncIterator[tuple[int, Piece]], meter: Meter
    ) -> None:
        self._work = work
        self._meter = meter
        self._first = first
        self._rest = rest
        self.handed_over = False
        """Set when a stream takes over: it cancels the work at its own end."""

    @property
    def served(self) -> Served:
        """What answers."""
        return self._first[1].served

    async def deltas(self) -> AsyncIterator[tuple[int, Delta]]:
        """The answers' deltas as they come, with the number of their choice."""
        self._meter.seen(self._first[0], self._first[1].delta)
        yield self._first[0], self._first[1].delta
        async for index, piece in self._rest:
            self._meter.seen(index, piece.delta)
            yield index, piece.delta

    async def whole(self, request: Request) -> list[Completion]:
        """All answers in the order of their choices. Raises ClientGone when the client hangs up before."""
        ended: dict[int, Completion] = {}
        async with unless_gone(request.receive):
            async for index, delta in self.deltas():
                if delta.completion is not None:
                    ended[index] = delta.completion
        return [ended[index] for index in sorted(ended)]

    def cancel(self) -> None:
        self._work.cancel()


@asynccontextmanager
async def answering(
    request: Request,
    model: str,
    make: Make,
    choices: int = 1,
    *,
    names: Mapping[str, str] = CHAT_NAMES,
    user: str | None = None,
    documents: Documents | None = None,
) -> AsyncIterator[Answering]:
    """`choices` answers of `model`. What fails before the first piece is raised as an ApiError; later, from `deltas`.

    Args:
        names: see `as_api_error`.
        user: whose requests a canary takes all or none of; None: each request is drawn by its id.
        documents: what the answers are to rest on, beside what the model itself retrieves.

    Raises:
        ApiError: what went wrong, as clients see it.
        ClientGone: nobody waits any more.
        UnknownModel: there is no such model for this caller.
    """
    catalog: Catalog = request.app.state.catalog
    workers: Workers = request.app.state.workers
    meter = meter_of(request)
    meter.model, asked = model, Asked(tenant=caller_of(request).tenant)
    ticket = f"request {meter.request_id}" if user is None else f"user {user}"

    def body(choice: int, give: Give[Piece]) -> None:
        _answer(catalog, model, ticket, make, choice, asked, meter, documents, give)

    try:
        check_model(request, model)
        work = workers.start([partial(body, choice) for choice in range(choices)])
    except QueueFull:
        raise queue_full(RETRY_AFTER_S) from None
    made: Answering | None = None
    try:
        pieces = work.pieces()
        async with unless_gone(request.receive):
            first = await anext(pieces)
        meter.asked = asked
        made = Answering(work, first, pieces, meter)
        yield made
    except (ClientGone, UnknownModel):
        raise
    except Exception as exc:
        raise as_api_error(exc, model, names) from exc
    finally:
        if made is None or not made.handed_over:
            work.cancel()


def nobody_reads() -> Response:
    """What is sent to a client that is gone."""
    return Response(status_code=499)


def new_id(prefix: str) -> str:
    return f"{prefix}{uuid.uuid4().hex}"


def _answer(
    catalog: Catalog,
    model: str,
    ticket: str,
    make: Make,
    choice: int,
    asked: Asked,
    meter: Meter,
    documents: Documents | None,
    give: Give[Piece],
) -> None:
    """Runs in a worker thread."""
    with catalog.lease(model, ticket) as served, asking(asked):
        asked.use_case, asked.base_model, asked.engine = served.use_case, served.base_model, served.engine_kind
        asked.arm = served.arm
        wanted = meter.wanted[choice] = make(served, choice)
        engine = served.engine if documents is None else _over(served.engine, documents)
        push(engine, wanted, lambda delta: give(Piece(delta, served)))


def _over(engine: Engine, documents: Documents) -> Engine:
    from rag.engine import RagEngine

    return RagEngine(engine, documents.searcher, documents.top_k)
