"""OpenTelemetry: what a request's spans say, whose children they are, and that nothing is sent unless told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest

from core.errors import ConfigError
from core.types import Source
from core.workspace import Workspace
from serve.asked import Asked, asking, retrieving
from serve.services import Options
from serve.tracing import Tracing, open_tracing
from tests.serve.conftest import Server, declare, wait_until

Serve = Callable[..., Server]

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider  # noqa: E402 - only where the extra is
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(spans: InMemorySpanExporter) -> Tracing:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return Tracing(provider)


def ask(server: Server, headers: dict[str, str] | None = None, **fields: Any) -> None:
    body = {"model": "faq", "messages": [{"role": "user", "content": "a secret text"}], **fields}
    httpx.post(f"{server.url}/v1/chat/completions", json=body, headers=headers).raise_for_status()


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == name]


ROOT = "POST /v1/chat/completions"


def test_request_is_a_span_of_the_callers_trace(
    serve: Serve, workspace: Workspace, tracing: Tracing, spans: InMemorySpanExporter
) -> None:
    declare(workspace, "faq")
    server = serve(options=Options(tracing=tracing))
    ask(server, {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "mine"}, stream=True)
    wait_until(lambda: len(named(spans, ROOT)) == 1)
    (root,) = named(spans, ROOT)
    assert root.context is not None and root.parent is not None
    assert f"{root.context.trace_id:032x}" == TRACE
    assert f"{root.parent.span_id:016x}" == PARENT
    said = dict(root.attributes or {})
    assert said["http.response.status_code"] == 200
    assert (said["tunefork.use_case"], said["tunefork.engine"]) == ("faq", "echo")
    assert (said["gen_ai.request.model"], said["gen_ai.response.model"]) == ("faq", "echo")
    assert (said["gen_ai.usage.input_tokens"], said["gen_ai.usage.output_tokens"]) == (3, 4)
    assert said["tunefork.request_id"] == "mine"
    assert float(str(said["tunefork.ttft_s"])) > 0
    (generation,) = named(spans, "generation")
    assert generation.parent is not None and generation.parent.span_id == root.context.span_id
    assert root.start_time is not None and root.end_time is not None
    assert root.start_time <= (generation.start_time or 0) <= (generation.end_time or 0) <= root.end_time
    assert "secret" not in "".join(span.to_json() for span in spans.get_finished_spans())


def test_caller_that_does_not_sample_is_followed(
    serve: Serve, workspace: Workspace, tracing: Tracing, spans: InMemorySpanExporter
) -> None:
    declare(workspace, "faq")
    server = serve(options=Options(tracing=tracing))
    ask(server, {"traceparent": f"00-{TRACE}-{PARENT}-00"})
    ask(server, {"traceparent": "rubbish"})
    wait_until(lambda: len(named(spans, ROOT)) == 1)
    (root,) = named(spans, ROOT)
    assert root.parent is None


def test_choices_have_a_span_each_and_errors_are_marked(
    serve: Serve, workspace: Workspace, tracing: Tracing, spans: InMemorySpanExporter
) -> None:
    from core.errors import EngineUnavailable
    from tests.serve.conftest import EchoEngine

    declare(workspace, "faq")
    server = serve(options=Options(tracing=tracing))
    ask(server, n=3)
    wait_until(lambda: len(named(spans, ROOT)) == 1)
    assert len(named(spans, "generation")) == 3
    broken = EchoEngine("gone", error=EngineUnavailable("gone"))
    declare(workspace, "bad", base_model="gone")
    server.catalog._bases["gone"] = broken
    body = {"model": "bad", "messages": [{"role": "user", "content": "x"}]}
    assert httpx.post(f"{server.url}/v1/chat/completions", json=body).status_code == 503
    wait_until(lambda: len(named(spans, ROOT)) == 2)
    assert not named(spans, ROOT)[1].status.is_ok


def test_retrieval_comes_before_generation() -> None:
    from serve.metering import Meter
    from serve.tracing import _generations

    asked = Asked()
    with asking(asked):
        with retrieving():
            found = [Source(1, "d", "t", "text", 1.0)]
        assert found
    ((start, end),) = asked.retrievals
    ((generation, last),) = _generations(Meter(asked=asked))
    assert start <= end == generation <= last


def test_nothing_is_traced_unless_told() -> None:
    assert open_tracing(environment={}) is None
    assert open_tracing(environment={"OTEL_EXPORTER_OTLP_ENDPOINT": ""}) is None
    with pytest.raises(ConfigError, match="carrier pigeon"):
        open_tracing(True, {"OTEL_EXPORTER_OTLP_PROTOCOL": "carrier pigeon"})


def test_spans_reach_the_collector_that_the_environment_names(
    serve: Serve, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    got: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    collector = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=collector.serve_forever)
    thread.start()
    try:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        tracing = open_tracing()
        assert tracing is not None
        declare(workspace, "faq")
        server = serve(options=Options(tracing=tracing))
        ask(server)
        # The request is recorded just after its answer has been sent.
        wait_until(
            lambda: (
                server.app.state.services.metrics.registry.get_sample_value(
                    "tunefork_answers_total", {"use_case": "faq", "base_model": "echo", "engine": "echo", "arm": "-"}
                )
                == 1
            )
        )
        tracing.close()
        assert {path for path, _ in got} == {"/v1/traces"}
        assert any(b"tunefork.use_case" in body and b"faq" in body for _, body in got)
    finally:
        collector.shutdown()
        thread.join()
        collector.server_close()
