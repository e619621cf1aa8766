"""GET /health: the process answers. GET /ready: it has opened what it serves."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from serve.errors import ERRORS, SERVER, ApiError

router = APIRouter(tags=["health"])


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    status: Literal["ready"] = "ready"
    busy: int
    """Answers being made or waiting."""


@router.get("/health", operation_id="health")
async def health() -> Health:
    return Health()


@router.get("/ready", responses=ERRORS, operation_id="ready")
async def ready(request: Request) -> Ready:
    """503 while the models are being loaded, and while the server is stopping."""
    state = request.app.state
    if state.phase != "ready":
        raise ApiError(
            503, f"the server is {state.phase}", type_=SERVER, code=state.phase, headers={"Retry-After": "1"}
        )
    return Ready(busy=state.workers.busy)
