"""OpenTelemetry, optional: one span a request, with a child for each retrieval and each answer. Off unless told.

Spans are made at a request's end from what its meter has seen, so an answer in the making pays nothing for them. They
hold names, figures and times; no text, key or id that a client made up.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.types import Scope

from core.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from serve.asked import Span
    from serve.metering import Meter

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


class Tracing:
    """Exports what meters have seen."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("tunefork")
        self._context = TraceContextTextMapPropagator()

    def request(self, meter: Meter, scope: Scope, route: str, status: int) -> None:
        """The spans of a request that has ended just now; the child of its `traceparent`, where it has one."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        clock = _Clock()
        headers = Headers(scope=scope)
        carrier = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        attributes: dict[str, Any] = {"http.request.method": scope["method"], "http.route": route}
        attributes |= {"http.response.status_code": status, "tunefork.request_id": meter.request_id}
        span = self._tracer.start_span(
            f"{scope['method']} {route}",
            context=self._context.extract(carrier),
            kind=SpanKind.SERVER,
            attributes=attributes | _of_answer(meter),
            start_time=clock.at(meter.started),
        )
        if meter.ttft_s is not None:
            span.add_event("first token", timestamp=clock.at(meter.started + meter.ttft_s))
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        if meter.asked is not None:
            inside = set_span_in_context(span)
            for name, spans in (("retrieval", meter.asked.retrievals), ("generation", _generations(meter))):
                for start, end in spans:
                    child = self._tracer.start_span(name, context=inside, start_time=clock.at(start))
                    child.end(clock.at(end))
        span.end(clock.now_ns)

    def close(self) -> None:
        """Send what is waiting."""
        self._provider.shutdown()


def open_tracing(wanted: bool = False, environment: Mapping[str, str] = os.environ) -> Tracing | None:
    """Tracing to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names; None where neither it nor `wanted` is set.

    Args:
        wanted: send to OpenTelemetry's default, a collector on this machine, where no endpoint is named.

    Raises:
        MissingExtra: the SDK or the exporter is not installed.
        ConfigError: a protocol is named that there is no exporter for.
    """
    if not wanted and not any(environment.get(name) for name in ENDPOINTS):
        return None
    protocol = next((environment[name] for name in PROTOCOLS if environment.get(name)), "http/protobuf")
    if protocol not in ("http/protobuf", "grpc"):
        raise ConfigError(f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}; http/protobuf and grpc are supported")
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        exporter: Any
        if protocol == "grpc":
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as Grpc

            exporter = Grpc()
        else:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as Http

            exporter = Http()
    except ImportError as exc:
        raise MissingExtra("OpenTelemetry", "otel") from exc
    named = {} if environment.get("OTEL_SERVICE_NAME") else {"service.name": "tunefork"}
    # Its own exit handler would wait for a collector that is gone; the server shuts it down.
    provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracing(provider)


class _Clock:
    """Monotonic seconds as nanoseconds of the wall clock."""

    def __init__(self) -> None:
        self.now_ns = time.time_ns()
        self._now_s = time.monotonic()

    def at(self, monotonic_s: float) -> int:
        return self.now_ns - int((self._now_s - monotonic_s) * 1e9)


def _of_answer(meter: Meter) -> dict[str, Any]:
    """What a model's answer adds; names as in OpenTelemetry's conventions for generative AI where there is one."""
    asked = meter.asked
    if asked is None:
        return {}
    found: dict[str, Any] = {
        "gen_ai.request.model": meter.model,
        "gen_ai.response.model": asked.base_model,
        "gen_ai.usage.input_tokens": meter.prompt_tokens,
        "gen_ai.usage.output_tokens": meter.completion_tokens,
        "tunefork.use_case": asked.use_case,
        "tunefork.engine": asked.engine,
    }
    found |= {"tunefork.arm": asked.arm} if asked.arm else {}
    return found | ({} if meter.ttft_s is None else {"tunefork.ttft_s": meter.ttft_s})


def _generations(meter: Meter) -> list[Span]:
    """Each choice's time at the engine, from the end of its retrieval on."""
    assert meter.asked is not None
    found = []
    for start, end in meter.asked.answers:
        retrieved = [until for since, until in meter.asked.retrievals if since >= start and until <= end]
        found.append((max(retrieved, default=start), end))
    return found
