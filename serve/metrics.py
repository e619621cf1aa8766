"""GET /metrics: what a Prometheus server reads. Names of keys and texts of requests are not in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

from serve.asked import Asked

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_SLOW = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BY = ("use_case", "base_model", "engine", "arm")


class Metrics:
    """The figures of one app. Labels are bounded: use cases and models that were opened, never what a client wrote."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        in_: dict[str, Any] = {"namespace": "tunefork", "registry": self.registry}
        self.requests = Counter("requests", "Requests answered.", ("route", "status"), **in_)
        self.request_s = Histogram(
            "request_seconds", "From a request's arrival to the end of its response.", ("route",), buckets=_SLOW, **in_
        )
        self.answers = Counter("answers", "Requests that a model answered.", _BY, **in_)
        self.ttft_s = Histogram(
            "time_to_first_token_seconds", "From arrival to the first text.", _BY, buckets=_SLOW, **in_
        )
        self.itl_s = Histogram(
            "inter_token_seconds", "Between two pieces of an answer's text.", _BY, buckets=_FAST, **in_
        )
        self.tokens = Counter("tokens", "Tokens read and written.", (*_BY, "kind"), **in_)
        self.retrieval_s = Histogram(
            "retrieval_seconds", "Finding passages, for one answer.", ("use_case",), buckets=_FAST, **in_
        )
        self.feedback = Counter("feedback", "Judgements on answers.", ("use_case", "arm", "rating"), **in_)
        self.busy = Gauge("answers_in_progress", "Answers being made or waiting for a slot.", **in_)

    def watch_busy(self, busy: Callable[[], int]) -> None:
        """Read the number of answers in progress when somebody asks."""
        self.busy.set_function(lambda: float(busy()))


def labels(asked: Asked) -> tuple[str, str, str, str]:
    return asked.use_case or "-", asked.base_model, asked.engine, asked.arm or "-"


router = APIRouter(tags=["health"])


@router.get("/metrics", operation_id="metrics", response_class=Response)
def metrics(request: Request) -> Response:
    """Metrics in Prometheus' text format; needs an admin key where the server has keys."""
    figures: Metrics = request.app.state.services.metrics
    return Response(generate_latest(figures.registry), media_type=CONTENT_TYPE_LATEST)
