"""The HTTP application: routes, errors and middleware put together, around a catalog."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from serve import chat, errors, health, models_routes
from serve.catalog import Catalog
from serve.middleware import MAX_BODY_BYTES, ApiKeys, BodyLimit, RequestId
from serve.workers import RUNNING, WAITING, Workers

DESCRIPTION = (
    "OpenAI-compatible API over every use case: base model, prompt, retrieval, tuning or both behind one name."
)


def create_app(
    catalog: Catalog,
    *,
    api_keys: Sequence[str] = (),
    running: int = RUNNING,
    waiting: int = WAITING,
    max_body_bytes: int = MAX_BODY_BYTES,
    phase: str = "ready",
) -> FastAPI:
    """The application over `catalog`, which stays the caller's to close.

    Args:
        api_keys: who may use /v1; none means everybody.
        running, waiting: answers made at once, and in the queue before it is full.
        phase: what /ready says until `app.state.phase` is set to "ready".
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # Made here, since its queue belongs to the server's event loop.
        app.state.workers = Workers(running, waiting)
        yield
        app.state.phase = "stopping"

    app = FastAPI(
        title="Tunefork",
        description=DESCRIPTION,
        version=version("tunefork"),
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.catalog = catalog
    app.state.phase = phase
    for routes in (chat.router, models_routes.router, health.router):
        app.include_router(routes)
    errors.install(app)
    # The last one added is the outermost.
    app.add_middleware(BodyLimit, limit=max_body_bytes)
    app.add_middleware(ApiKeys, keys=api_keys)
    app.add_middleware(RequestId)
    return app
