"""What every request passes through: a request id, the last catch, the size limit. Pure ASGI, so that
disconnects and streams pass unhindered."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import SERVER, ApiError, internal_error
from serve.logs import REQUEST_ID

log = logging.getLogger("tunefork.serve")

MAX_BODY_BYTES = 8 * 1024 * 1024
_AROUND_FILE = 64 * 1024
"""Bytes of a multipart body beside its file."""
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
        scope.setdefault("state", {})["request_id"] = request_id
        token = REQUEST_ID.set(request_id)
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
        except ClientDisconnect:
            log.info("%s: the client left before its request was whole", request_id)
        except Exception:
            log.exception("%s failed", request_id)
            if started:
                raise
            await internal_error().response()(scope, receive, send_with_id)
        finally:
            REQUEST_ID.reset(token)


class BodyLimit:
    """Refuses bodies over `limit` bytes (an uploaded file's: `file_limit`), announced or not, before they are in memory;
    and compressed ones, whose size nobody knows."""

    def __init__(self, app: ASGIApp, limit: int = MAX_BODY_BYTES, file_limit: int = 0) -> None:
        self.app = app
        self._limit = limit
        self._file_limit = file_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        upload = scope["path"] == "/v1/files" and scope["method"] == "POST"
        limit = max(self._limit, self._file_limit + _AROUND_FILE) if upload else self._limit
        headers = Headers(scope=scope)
        encoding = headers.get("content-encoding", "").strip().lower()
        if encoding not in ("", "identity"):
            text = f"the body has the Content-Encoding '{encoding[:40]}'; send it as it is"
            error = ApiError(415, text, code="unsupported_encoding", headers={"Accept-Encoding": "identity"})
            await error.response()(scope, receive, send)
            return
        announced = headers.get("content-length", "")
        if announced.isdigit() and int(announced) > limit:
            await _too_large(limit).response()(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > limit:
                    # An HTTPException is what body parsing lets through to the error handlers.
                    raise HTTPException(413, _too_large(limit).body.message)
            return message

        await self.app(scope, counted, send)


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"the body is larger than {limit} bytes", code="body_too_large")
