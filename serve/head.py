"""HEAD: what GET would answer, without the body. Pure ASGI."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Head:
    """Answers HEAD as GET by the same rules (key, limits, status, headers), and keeps the body back."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def send_empty(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        # The server's own scope stays a HEAD: it knows then that a Content-Length without a body is meant.
        got = {**scope, "method": "GET"}
        try:
            await self.app(got, receive, send_empty)
        finally:
            scope.update({**got, "method": "HEAD"})
