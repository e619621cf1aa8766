"""Every error leaves the server in OpenAI's envelope: {"error": {"message", "type", "param", "code"}}.

No message carries a traceback, a path or an address of this machine: what a client cannot mend is described in
general words, and the server's log has the rest, under the same request id.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from core.errors import (
    ArtifactError,
    ContextTooLong,
    EngineError,
    EngineTimeout,
    EngineUnavailable,
    NotHonoured,
    TuneforkError,
)
from serve.served import UnknownModel

log = logging.getLogger("tunefork.serve")

INVALID = "invalid_request_error"
SERVER = "server_error"


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorEnvelope(BaseModel):
    error: ErrorBody


ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorEnvelope, "description": "The request cannot be honoured."},
    "5XX": {"model": ErrorEnvelope, "description": "The server or the model failed."},
}
"""For a route's `responses`: what a client may get beside the answer."""

CHAT_NAMES: Mapping[str, str] = {}


class ApiError(Exception):
    """An answer other than 200, as the client will see it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type_: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = ErrorBody(message=_printable(message), type=type_, param=param and _printable(param), code=code)
        self.headers = dict(headers or {})

    def response(self) -> JSONResponse:
        return JSONResponse(self.envelope(), self.status, self.headers)

    def envelope(self) -> dict[str, Any]:
        return ErrorEnvelope(error=self.body).model_dump()


def _printable(text: str) -> str:
    """`text` as it may be echoed: what a client sent can be a megabyte long, or not valid Unicode."""
    text = text if len(text) <= 600 else text[:600] + "..."
    return text.encode("utf-8", "replace").decode()


def queue_full(retry_after_s: int) -> ApiError:
    return ApiError(
        429,
        "the server's queue is full; try again shortly",
        type_="rate_limit_error",
        code="queue_full",
        headers={"Retry-After": str(retry_after_s)},
    )


def as_api_error(exc: Exception, model: str | None = None, names: Mapping[str, str] = CHAT_NAMES) -> ApiError:
    """What a client may know of `exc`. Anything not meant for clients is logged here, and described in general words.

    Args:
        names: what fields of chat completions, which engines speak of, are called at the client's endpoint.
    """
    if isinstance(exc, ApiError):
        return exc
    if isinstance(exc, UnknownModel):
        return ApiError(404, str(exc), param="model", code="model_not_found")
    if isinstance(exc, NotHonoured):
        return ApiError(400, str(exc), param=names.get(exc.param, exc.param), code="unsupported_value")
    if isinstance(exc, ContextTooLong):
        return ApiError(400, str(exc), param=names.get("messages", "messages"), code="context_length_exceeded")
    log.error("%s: %s", type(exc).__name__, exc, exc_info=None if isinstance(exc, TuneforkError) else exc)
    the_model = f"the model {model!r}" if model else "the model"
    if isinstance(exc, ArtifactError):
        text = f"what was built for {the_model} cannot be used; the server's log says why"
        return ApiError(503, text, type_=SERVER, code="artifact_unusable")
    if isinstance(exc, EngineTimeout):
        return ApiError(504, f"{the_model} did not answer in time; try again", type_=SERVER, code="engine_timeout")
    if isinstance(exc, EngineUnavailable):
        text = f"the engine of {the_model} is not available now; the server's log says why"
        return ApiError(503, text, type_=SERVER, code="engine_unavailable")
    if isinstance(exc, EngineError):
        return ApiError(502, f"{the_model} failed on this request", type_=SERVER, code="engine_error")
    if isinstance(exc, TuneforkError):
        text = f"{the_model} cannot be opened; the server's log says why"
        return ApiError(503, text, type_=SERVER, code="model_unavailable")
    return internal_error()


def internal_error() -> ApiError:
    text = "the server failed on this request; its log says more under the x-request-id of this response"
    return ApiError(500, text, type_=SERVER, code="internal_error")


def install(app: FastAPI) -> None:
    """Give every error of `app` the envelope: ours, validation, unknown routes and methods."""
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(TuneforkError, _api_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)


async def _api_error(_request: Request, exc: Exception) -> JSONResponse:
    return as_api_error(exc).response()


async def _http(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, HTTPException)
    code, text = _HTTP.get(exc.status_code, (None, str(exc.detail)))
    text = text.format(method=request.method, path=request.url.path)
    headers = {"Allow": _allowed(request)} if exc.status_code == 405 else exc.headers
    return ApiError(exc.status_code, text, code=code, headers=headers).response()


def _allowed(request: Request) -> str:
    """The methods this path answers to; the framework names those of one route only."""
    methods: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            methods |= route.methods or set()
    # See serve.head.
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))


_HTTP: dict[int, tuple[str | None, str]] = {
    400: ("invalid_body", "the body cannot be read as JSON in UTF-8"),
    404: ("unknown_url", "there is no {method} {path} here; the routes are listed in /openapi.json"),
    405: ("method_not_allowed", "{path} does not answer to {method}"),
    413: ("body_too_large", "the body is too large"),
}


async def _invalid(_request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, RequestValidationError)
    return invalid(exc.errors()).response()


def invalid(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """The first of pydantic's `errors` as a 400, with OpenAI's words for what is wrong."""
    first = _most_telling(errors)
    kind, param = first["type"], str(first.get("ctx", {}).get("param", "")) or _param(first["loc"])
    if kind == "json_invalid":
        return ApiError(400, f"the body is not JSON: {first['ctx']['error']}", code="invalid_json")
    if not param and kind == "string_unicode":
        return ApiError(400, "the body holds a field name that is not valid Unicode", code="invalid_body")
    if not param:
        text = "the body must be a JSON object, sent with 'Content-Type: application/json'"
        return ApiError(400, text, code="invalid_body")
    for prefix, code, text in _KINDS:
        if kind.startswith(prefix):
            detail = text.format(param=param, msg=_plain(first["msg"]))
            return ApiError(400, detail, param=param, code=code)
    return ApiError(400, f"{param}: {_plain(first['msg'])}", param=param, code="invalid_value")


_KINDS = (
    ("missing", "missing_required_parameter", "the required parameter '{param}' is missing"),
    ("unsupported_parameter", "unsupported_parameter", "'{param}' {msg}"),
    ("unsupported_value", "unsupported_value", "'{param}' {msg}"),
    ("extra_forbidden", "unknown_parameter", "unknown parameter '{param}'"),
    ("literal_error", "unsupported_value", "'{param}' has a value that is not supported: {msg}"),
    ("union_tag", "unsupported_value", "'{param}' has a value that is not supported: {msg}"),
    ("greater_than", "invalid_value", "'{param}' is too small: {msg}"),
    ("less_than", "invalid_value", "'{param}' is too large: {msg}"),
    ("too_short", "invalid_value", "'{param}' is too short: {msg}"),
    ("too_long", "invalid_value", "'{param}' is too long: {msg}"),
    ("string_too", "invalid_value", "'{param}' has the wrong length: {msg}"),
    ("value_error", "invalid_value", "'{param}' {msg}"),
    ("string_pattern", "invalid_value", "'{param}' has characters or a length that are not allowed: {msg}"),
    ("string_unicode", "invalid_value", "'{param}' holds text that is not valid Unicode"),
    ("finite_number", "invalid_value", "'{param}' must be a finite number"),
    ("", "invalid_type", "'{param}' has the wrong type: {msg}"),
)
"""Beginning of pydantic's error type -> our code and message."""


def _most_telling(errors: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The deepest error: a union reports one for each of its members, and the member that was meant got farthest."""
    first = max(errors, key=lambda e: len(e["loc"]) if e["loc"] else 0)
    if first["type"] != "literal_error":
        return first
    # Of a number or a word, what is wrong with the number says more than that it is not the word.
    beside = (
        e
        for e in errors
        if e["loc"][:-1] == first["loc"][:-1] and str(e["loc"][-1]).startswith(("constrained", "int", "float"))
    )
    return next(beside, first)


def _param(loc: Sequence[int | str]) -> str:
    """OpenAI's way to name a field: ("body", "messages", 0, "user", "content") -> messages[0].content."""
    text = ""
    for part in loc[1:]:
        if isinstance(part, int):
            text += f"[{part}]"
        elif not text:
            text = part  # a field, also where a member of a union has its name: `user`
        elif part not in _UNION_MEMBERS and part != "[key]" and not _UNNAMED_MEMBER.match(part):
            text += f".{part}"
    return text


_UNION_MEMBERS = frozenset(
    (
        *("system", "developer", "user", "assistant", "tool"),
        *("message", "function_call", "function_call_output", "file_search_call"),
    )
)
"""Parts of pydantic's location that name a member of a union rather than a field."""

_UNNAMED_MEMBER = re.compile(r"(function-\w+|literal|list|constrained-\w+|nullable)\[.*\]$|constrained-\w+$", re.DOTALL)
"""As pydantic names a member that has no name: by its validators, addresses in memory included."""


def _plain(message: str) -> str:
    """`Input should be ...` -> `should be ...`; our own validators' messages lose pydantic's prefix."""
    return message.removeprefix("Value error, ").removeprefix("Input ")
