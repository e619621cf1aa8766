"""Who asks, and whether they may: the key, its scopes by route, its use cases, limits and budget. Pure ASGI."""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Sequence
from functools import lru_cache

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.errors import ArtifactError
from serve.buckets import Wait
from serve.errors import SERVER, ApiError, as_api_error
from serve.keys import ADMIN, ApiKey
from serve.keys import Scope as KeyScope
from serve.metering import meter_in
from serve.served import UnknownModel
from serve.services import Services

ANONYMOUS = ADMIN.model_copy(update={"id": "anonymous"})
"""Everybody, where the workspace has no keys: such a server listens on loopback only."""

BYTES_PER_TOKEN = 4
"""Of a request's body, to guess its tokens before they are counted: English text has a little more."""

_ANY: tuple[KeyScope, ...] = ("chat", "ingest", "tune")
_RULES: tuple[tuple[str, str, tuple[KeyScope, ...]], ...] = (
    ("GET", r"/v1/models(/.*)?", _ANY),
    ("DELETE", r"/v1/models/.+", ("tune",)),
    ("POST", r"/v1/(chat/completions|completions|embeddings)", ("chat",)),
    (".*", r"/v1/responses(/.*)?", ("chat",)),
    ("POST", r"/v1/vector_stores/[^/]+/search", ("chat", "ingest")),
    (".*", r"/v1/vector_stores(/.*)?", ("ingest",)),
    (".*", r"/v1/files(/.*)?", ("ingest", "tune")),
    (".*", r"/v1/fine_tuning/.*", ("tune",)),
    ("GET", r"/v1/use_cases(/[^/]+)?", _ANY),
    ("POST", r"/v1/use_cases/[^/]+/feedback", ("chat",)),
    (".*", r"/v1/use_cases/[^/]+/advise(/.*)?", ("tune",)),
)
"""Method, path, and the scopes of which one is enough. Everything else needs admin: a route that is missing here is
closed, not open."""


@lru_cache(maxsize=256)
def scopes_for(method: str, path: str) -> tuple[KeyScope, ...]:
    """The scopes any of which may call this route."""
    for methods, pattern, scopes in _RULES:
        if re.fullmatch(methods, method) and re.fullmatch(pattern, path):
            return scopes
    return ("admin",)


def caller_of(request: Request) -> ApiKey:
    """The key that `request` came with."""
    key = request.scope.get("state", {}).get("caller")
    return key if isinstance(key, ApiKey) else ANONYMOUS


def may_see(key: ApiKey, name: str) -> bool:
    """Whether the served name, use case or vector store `name` is there for this key."""
    return not key.use_cases or name.partition(":")[0] in key.use_cases


def check_model(request: Request, name: str) -> None:
    """Raises UnknownModel for a name that the caller may not use: it cannot be told from one that is not there."""
    key = caller_of(request)
    if not may_see(key, name):
        raise UnknownModel(name, list(key.use_cases))


async def unknown_model(request: Request, exc: Exception) -> JSONResponse:
    """The 404 for an UnknownModel: near names are told only of what the caller may use."""
    assert isinstance(exc, UnknownModel)
    key = caller_of(request)
    return as_api_error(UnknownModel(exc.name, list(key.use_cases)) if key.use_cases else exc).response()


class Access:
    """Lets requests to /v1 and /metrics in by their key, and says what is left of its limits.

    Args:
        admin_keys: keys given to the server itself; they may do everything.
    """

    def __init__(self, app: ASGIApp, *, admin_keys: Sequence[str], services: Services) -> None:
        self.app = app
        self._admin_keys = [key.encode() for key in admin_keys]
        self._store = services.keys
        self._limits = services.limits
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or not (path == "/v1" or path.startswith(("/v1/", "/metrics"))):
            await self.app(scope, receive, send)
            return
        try:
            key = self._known(Headers(scope=scope).get("authorization", ""))
            self._check_scope(key, scope["method"], path)
            self._check_budget(key)
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = key
        limited = key.requests_per_minute is not None or key.tokens_per_minute is not None
        if not limited:
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        estimate = int(announced) // BYTES_PER_TOKEN if announced.isdigit() and scope["method"] == "POST" else 0
        if path.startswith("/v1/files"):
            estimate = 0
        wait = self._limits.admit(key, estimate)
        if wait is not None:
            await _rate_limited(wait, self._limits.headers(key)).response()(scope, receive, send)
            return

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._limits.headers(key).items():
                    headers[name] = value
            await send(message)

        try:
            await self.app(scope, receive, send_with_limits)
        finally:
            meter = meter_in(scope)
            meter.close()
            self._limits.settle(key, estimate, meter.tokens)

    def _known(self, authorization: str) -> ApiKey:
        try:
            open_to_all = not self._admin_keys and not self._store.all()
        except ArtifactError as exc:
            raise _keys_unreadable() from exc
        if open_to_all:
            return ANONYMOUS
        scheme, _, given = authorization.partition(" ")
        secret = given.strip()
        if scheme.lower() == "bearer" and secret:
            # Every key is compared, in constant time: how long it takes tells nothing.
            matches = [secrets.compare_digest(secret.encode("utf-8", "replace"), key) for key in self._admin_keys]
            if any(matches):
                return ADMIN
            found = self._store.find(secret)
            if found is not None:
                return found
        text = "incorrect API key" if given else "no API key; send 'Authorization: Bearer KEY'"
        raise ApiError(401, text, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})

    def _check_scope(self, key: ApiKey, method: str, path: str) -> None:
        scopes = scopes_for(method, path)
        if not any(key.may(scope) for scope in scopes):
            text = f"this key may not do that: it needs the scope {' or '.join(scopes)}"
            raise ApiError(403, text, type_="permission_error", code="insufficient_permissions")

    def _check_budget(self, key: ApiKey) -> None:
        if key.budget_usd is not None and self._services.usage.spent(key.id) >= key.budget_usd:
            text = "the budget of this key is spent"
            raise ApiError(429, text, type_="insufficient_quota", code="insufficient_quota")


def _rate_limited(wait: Wait, headers: dict[str, str]) -> ApiError:
    seconds = max(1, math.ceil(wait.seconds))
    return ApiError(
        429,
        f"this key may use {wait.limit} {wait.what} a minute; try again in {seconds} s",
        type_=wait.what,
        code="rate_limit_exceeded",
        headers={**headers, "Retry-After": str(seconds)},
    )


def _keys_unreadable() -> ApiError:
    text = "the server cannot read its list of keys; its log says more"
    return ApiError(503, text, type_=SERVER, code="keys_unreadable")
