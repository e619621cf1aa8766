"""The HTTP application: routes, errors and middleware put together, around a catalog."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from serve import (
    chat,
    completions,
    docs_page,
    embeddings,
    errors,
    files_routes,
    fine_tuning_routes,
    health,
    metrics,
    models_routes,
    responses,
    stores_routes,
    use_cases,
)
from serve.access import Access, unknown_model
from serve.catalog import Catalog
from serve.head import Head
from serve.metering import Metering
from serve.middleware import MAX_BODY_BYTES, BodyLimit, RequestId
from serve.served import UnknownModel
from serve.services import Options, Services
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
    options: Options | None = None,
) -> FastAPI:
    """The application over `catalog`, which stays the caller's to close.

    Args:
        api_keys: who may do everything, beside the keys of the workspace; none of either means everybody.
        running, waiting: answers made at once, and in the queue before it is full.
        phase: what /ready says until `app.state.phase` is set to "ready".
    """

    options = options or Options()
    services = Services(catalog.workspace, options)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # Made here, since its queue belongs to the server's event loop.
        workers = app.state.workers = Workers(running, waiting)
        services.metrics.watch_busy(lambda: workers.busy)
        services.open()
        try:
            yield
        finally:
            app.state.phase = "stopping"
            workers.close()
            services.close()

    app = FastAPI(
        title="Tunefork",
        description=DESCRIPTION,
        version=version("tunefork"),
        lifespan=lifespan,
        redirect_slashes=False,
        # Theirs load scripts from a CDN, and stay blank where there is no network.
        docs_url=None,
        redoc_url=None,
    )
    app.state.catalog = catalog
    app.state.services = services
    app.state.phase = phase
    for routes in (
        chat.router,
        completions.router,
        embeddings.router,
        responses.router,
        models_routes.router,
        health.router,
        docs_page.router,
        metrics.router,
        files_routes.router,
        stores_routes.router,
        fine_tuning_routes.router,
        use_cases.router,
    ):
        app.include_router(routes)
    errors.install(app)
    app.add_exception_handler(UnknownModel, unknown_model)
    # The last one added is the outermost.
    app.add_middleware(BodyLimit, limit=max_body_bytes, file_limit=options.max_file_bytes)
    app.add_middleware(Access, admin_keys=api_keys, services=services)
    app.add_middleware(Head)
    app.add_middleware(Metering, services=services)
    if options.cors_origins:
        app.add_middleware(CORSMiddleware, allow_origins=options.cors_origins, allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(RequestId)
    return app
