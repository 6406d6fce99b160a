"""The counters of a server for Prometheus, and the middleware that counts requests."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from mmcl_fast.media.engines.isolation import REASONS

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CLIENT_CLOSED_REQUEST = 499  # the client left before it was answered; nginx has this status for it


class ServerMetrics:
    """The counters of one server, in their own registry: servers in one process do not share counters."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        common: Any = {"namespace": "mmcl_fast", "registry": self.registry}
        self.requests = Counter("requests", "Requests answered.", ("path", "status"), **common)
        self.seconds = Histogram(
            "request_seconds", "Time from a request's headers to its answer.", ("path",), buckets=SECONDS, **common
        )
        self.in_flight = Gauge("requests_in_flight", "Requests for a prediction being served.", **common)
        self.batch = Histogram("batch_items", "Items that the learner predicted together.", buckets=SIZES, **common)
        self.items = Counter("items", "Items by modality and outcome.", ("modality", "outcome"), **common)
        self.received = Counter("received_bytes", "Bytes of requests' bodies.", **common)
        self.sent = Counter("sent_bytes", "Bytes of answers' bodies.", **common)
        self.decoders = Gauge("decoders", "Decoding processes that are alive.", **common)
        self.died = Counter("decoders_died", "Decoding processes that a file ended, by reason.", ("reason",), **common)
        self.version = Gauge("model_version", "Version of the model that answers; 0: it has no versions.", **common)
        self.swaps = Counter("model_swaps", "Versions taken over while serving, by outcome.", ("outcome",), **common)
        self.feedback = Counter("feedback", "Requests to keep feedback, by outcome.", ("outcome",), **common)
        for outcome in ("ok", "failed"):
            self.swaps.labels(outcome)
        for outcome in ("kept", "known", "refused"):
            self.feedback.labels(outcome)
        for reason in REASONS:
            self.died.labels(reason)  # a counter with labels appears only once it is used: show 0 from the start


class CountingMiddleware:
    """Counts the requests to an application.

    Args:
        app: the application.
        metrics: the counters.
        paths: paths that are counted by their name; all others are counted as "other".
    """

    def __init__(self, app: ASGIApp, metrics: ServerMetrics, paths: frozenset[str]) -> None:
        self.app, self.metrics, self.paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        start, status = time.perf_counter(), CLIENT_CLOSED_REQUEST

        async def counted_receive() -> Message:
            message = await receive()
            self.metrics.received.inc(len(message.get("body", b"")))
            return message

        async def counted_send(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            self.metrics.sent.inc(len(message.get("body", b"")))
            await send(message)

        try:
            await self.app(scope, counted_receive, counted_send)
        finally:
            path = scope["path"] if scope["path"] in self.paths else "other"
            self.metrics.requests.labels(path, status).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - start)
