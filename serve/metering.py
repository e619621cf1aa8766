"""One meter a request: what it asked, when its tokens came, what it came to. Metrics, usage, the access log and the
request log all read it at the request's end."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastapi import Request
from prometheus_client import Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core import types
from core.types import Delta
from serve.asked import Asked
from serve.logs import ACCESS
from serve.metrics import Metrics, labels
from serve.usage import Use

if TYPE_CHECKING:
    from serve.services import Services


@dataclass
class Meter:
    """What is measured of one request."""

    metrics: Metrics | None = None
    request_id: str = "-"
    started: float = field(default_factory=time.monotonic)
    key: str = "anonymous"
    model: str = ""
    """The name that was asked, once it has proved to be served."""
    asked: Asked | None = None
    wanted: dict[int, types.Request] = field(default_factory=dict)
    """What the engine was asked, by choice."""
    answers: dict[int, str] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    ttft_s: float | None = None
    _itl_s: Histogram | None = None
    """Of what answers; looking that up takes longer than counting."""
    _last: dict[int, float] = field(default_factory=dict)
    _pieces: dict[int, int] = field(default_factory=dict)
    """Of answers that have not ended."""
    _read: set[object] = field(default_factory=set)

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def seen(self, index: int, delta: Delta) -> None:
        """A piece of the choice number `index` has come just now."""
        now = time.monotonic()
        if delta.text or delta.tool_calls:
            self._text_came(index, now)
            self._pieces[index] = self._pieces.get(index, 0) + 1
        if delta.completion is not None:
            self._pieces.pop(index, None)
            usage = delta.completion.usage
            wanted = self.wanted.get(index)
            prompt = (wanted.messages, wanted.prompt) if wanted is not None else index
            # Several choices of one prompt read it once.
            self.used(0 if prompt in self._read else usage.prompt_tokens, usage.completion_tokens)
            self._read.add(prompt)
            self.answers[index] = delta.completion.text

    def used(self, prompt_tokens: int, completion_tokens: int = 0) -> None:
        """Tokens read and written, beside those counted already."""
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens

    def close(self) -> None:
        """Count what was written of answers that were broken off: hanging up early must not make them free.

        A piece counts as a token, and four characters of the prompt do. Twice is harmless.
        """
        while self._pieces:
            index, pieces = self._pieces.popitem()
            wanted = self.wanted.get(index)
            asked = "" if wanted is None else "".join(m.content for m in wanted.messages) or str(wanted.prompt or "")
            self.used(0 if self._read else len(asked) // 4, pieces)
            self._read.add(index)

    def _text_came(self, index: int, now: float) -> None:
        if self.ttft_s is None:
            self.ttft_s = now - self.started
            if self.metrics is not None and self.asked is not None:
                by = labels(self.asked)
                self.metrics.ttft_s.labels(*by).observe(self.ttft_s)
                self._itl_s = self.metrics.itl_s.labels(*by)
        elif index in self._last and self._itl_s is not None:
            self._itl_s.observe(now - self._last[index])
        self._last[index] = now


def meter_in(scope: Scope) -> Meter:
    """The meter of the request in `scope`; one that nobody reads where there is none."""
    state: dict[str, Any] = scope.setdefault("state", {})
    meter = state.setdefault("meter", Meter())
    assert isinstance(meter, Meter)
    return meter


def meter_of(request: Request) -> Meter:
    return meter_in(request.scope)


class Metering:
    """Gives each request its meter, and hands it on at the end, however the request ends. Pure ASGI."""

    def __init__(self, app: ASGIApp, *, services: Services) -> None:
        self.app = app
        self._metrics = services.metrics
        self._tracing = services.options.tracing
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        meter = state["meter"] = Meter(self._metrics, state.get("request_id", "-"))
        status = 499

        async def send_seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_seen)
        finally:
            caller = state.get("caller")
            meter.key = caller.id if caller is not None else "-"
            meter.close()
            self._record(meter, scope, status)

    def _record(self, meter: Meter, scope: Scope, status: int) -> None:
        duration_s = time.monotonic() - meter.started
        # The route's pattern, not the path: ids and names that a client makes up must not become labels or log text.
        route = getattr(scope.get("route"), "path", "-")
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.request_s.labels(route).observe(duration_s)
        fields: dict[str, Any] = {"method": scope["method"], "route": route, "status": status}
        fields |= {"duration_s": round(duration_s, 4), "key": meter.key}
        asked = meter.asked
        if asked is not None:
            fields |= {"model": meter.model, "base_model": asked.base_model, "engine": asked.engine}
            fields |= {"arm": asked.arm} if asked.arm else {}
            fields |= {"prompt_tokens": meter.prompt_tokens, "completion_tokens": meter.completion_tokens}
            fields |= {} if meter.ttft_s is None else {"ttft_s": round(meter.ttft_s, 4)}
            fields |= {} if asked.retrieval_s is None else {"retrieval_s": round(asked.retrieval_s, 4)}
            self._answered(meter, asked)
        if self._tracing is not None:
            self._tracing.request(meter, scope, route, status)
        ACCESS.info("", extra={"fields": fields})

    def _answered(self, meter: Meter, asked: Asked) -> None:
        by = labels(asked)
        self._metrics.answers.labels(*by).inc()
        self._metrics.tokens.labels(*by, "prompt").inc(meter.prompt_tokens)
        self._metrics.tokens.labels(*by, "completion").inc(meter.completion_tokens)
        if asked.retrieval_s is not None:
            self._metrics.retrieval_s.labels(asked.use_case or "-").observe(asked.retrieval_s)
        use = Use(meter.key, asked.use_case, asked.base_model, meter.prompt_tokens, meter.completion_tokens)
        self._services.usage.add(use)
        if meter.answers:
            self._services.log.answered(meter)
