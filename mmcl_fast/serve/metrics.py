"""What a server counts, for Prometheus, and the layer around the application that counts it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from mmcl_fast.media.engines.isolation import REASONS

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
GONE = 499  # the client left before it was answered; what proxies write for that


class Metrics:
    """The counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        here: Any = {"namespace": "mmcl_fast", "registry": self.registry}
        self.requests = Counter("requests", "Requests answered.", ("path", "status"), **here)
        self.seconds = Histogram(
            "request_seconds", "From a request's headers to its answer.", ("path",), buckets=SECONDS, **here
        )
        self.in_flight = Gauge("requests_in_flight", "Requests for a prediction being served.", **here)
        self.batch = Histogram("batch_items", "Items that the learner saw together.", buckets=SIZES, **here)
        self.items = Counter("items", "Items by what came of them.", ("modality", "outcome"), **here)
        self.received = Counter("received_bytes", "Bytes of requests' bodies.", **here)
        self.sent = Counter("sent_bytes", "Bytes of answers' bodies.", **here)
        self.decoders = Gauge("decoders", "Processes that decode.", **here)
        self.died = Counter("decoders_died", "Decoding processes that a file ended, by why.", ("reason",), **here)
        for reason in REASONS:
            self.died.labels(reason)  # 0 is told, too


class Counted:
    """The application, counted: ``paths`` by their name, all others as one."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]) -> None:
        self.app, self.metrics, self.paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        start, status = time.perf_counter(), GONE

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
