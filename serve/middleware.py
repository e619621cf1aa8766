"""What every request passes through: a request id, the last catch, the key, the size limit. Pure ASGI, so that
disconnects and streams pass unhindered."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import SERVER, ApiError, internal_error

log = logging.getLogger("tunefork.serve")

MAX_BODY_BYTES = 8 * 1024 * 1024
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class RequestId:
    """Gives each response an `x-request-id`, the client's own if it sent a sane one; and is the app's one broad catch."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _SANE_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            # Only the server's end cancels a request: its grace time is over.
            log.warning("%s was cut off: the server is stopping", request_id)
            if not started:
                error = ApiError(503, "the server is stopping", type_=SERVER, code="stopping")
                await error.response()(scope, receive, send_with_id)
        except Exception:
            log.exception("%s failed", request_id)
            if started:
                raise
            await internal_error().response()(scope, receive, send_with_id)


class ApiKeys:
    """Lets only holders of one of `keys` reach /v1; no keys: everybody (the server then listens on loopback only)."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self.app = app
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._keys or not scope["path"].startswith("/v1"):
            await self.app(scope, receive, send)
            return
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        # Every key is compared, in constant time: how long it takes tells nothing.
        matches = [secrets.compare_digest(given.strip().encode(), key) for key in self._keys]
        if scheme.lower() == "bearer" and any(matches):
            await self.app(scope, receive, send)
            return
        text = "incorrect API key" if given else "no API key; send 'Authorization: Bearer KEY'"
        error = ApiError(401, text, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        await error.response()(scope, receive, send)


class BodyLimit:
    """Refuses bodies over `limit` bytes, announced or not, before they are in memory."""

    def __init__(self, app: ASGIApp, limit: int = MAX_BODY_BYTES) -> None:
        self.app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdigit() and int(announced) > self._limit:
            await self._too_large().response()(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self._limit:
                    # An HTTPException is what body parsing lets through to the error handlers.
                    raise HTTPException(413, self._too_large().body.message)
            return message

        await self.app(scope, counted, send)

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body is larger than {self._limit} bytes", code="body_too_large")
