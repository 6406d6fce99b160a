"""The application: the answer to each address."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from mmcl_fast.errors import suggest
from mmcl_fast.learning import Learner, Prediction
from mmcl_fast.media import MODALITIES
from mmcl_fast.media.engines.isolation import Pool
from mmcl_fast.serve.batches import Batches, DecoderDeath
from mmcl_fast.serve.body import RequestRefused, find_items, read_body
from mmcl_fast.serve.limits import Limits
from mmcl_fast.serve.metrics import CLIENT_CLOSED_REQUEST, CountingMiddleware, ServerMetrics
from mmcl_fast.serve.page import content_policy, render_page

PARAMETERS = ("modality", "top_k")
DRAIN_SECONDS = 1.0
SAFE_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


class EarlyResponse(JSONResponse):
    """An answer to a request whose body was not read to its end. The connection closes after the answer.

    Some clients read the answer only once they have sent the whole body. So the rest of the body is read and dropped,
    for at most ``DRAIN_SECONDS`` and ``max_bytes``.
    """

    def __init__(self, content: Any, status: int, headers: dict[str, str], max_bytes: int) -> None:
        super().__init__(content, status, headers | {"Connection": "close"})
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._drain(receive), DRAIN_SECONDS)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _drain(self, receive: Receive) -> None:
        size, more = 0, True
        while more and size < self.max_bytes:
            message = await receive()
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)


class _Service:
    """One method for each route. ``make_app`` explains the arguments."""

    def __init__(self, learner: Learner, limits: Limits, top_k: int, classes: Sequence[str] | None, name: str) -> None:
        self.learner, self.limits, self.top_k, self.name = learner, limits, top_k, name
        self.metrics = ServerMetrics()
        died = self.metrics.died
        self.batches = Batches(
            learner, limits, classes, self.metrics.batch.observe, lambda reason: died.labels(reason).inc()
        )
        decoders = self.batches.decoders
        self.metrics.decoders.set_function(lambda: decoders.alive if isinstance(decoders, Pool) else 0)
        self.in_flight = 0

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        work = asyncio.create_task(self.batches.work())
        yield
        work.cancel()
        self.batches.close()

    async def predict(self, request: Request) -> Response:
        if self.in_flight >= self.limits.max_concurrent:
            line = f"{self.in_flight} requests are being served, as many as are allowed at once: try again"
            return self._refuse(RequestRefused(503, line), unread=True)
        self.in_flight += 1
        self.metrics.in_flight.set(self.in_flight)
        unread = True
        try:
            modality, top_k = self._parse_query(request)
            body = await read_body(request, self.limits)
            unread = False
            kind = request.headers.get("content-type", "")
            loop = asyncio.get_running_loop()
            items = await loop.run_in_executor(
                self.batches.decode_threads, find_items, body, kind, modality, self.limits
            )
            del body  # the items hold their bytes: keep no second copy while they wait
            predictions = await asyncio.gather(*(self.batches.predict(item, top_k) for item in items))
        except RequestRefused as refused:
            return self._refuse(refused, unread)
        except ClientDisconnect:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        finally:
            self.in_flight -= 1
            self.metrics.in_flight.set(self.in_flight)
        return self._answer(predictions)

    def _parse_query(self, request: Request) -> tuple[str | None, int]:
        """Return the modality and the number of classes that the address asks for."""
        query = dict(request.query_params)
        for name in query:
            if name not in PARAMETERS:
                raise RequestRefused(400, f"parameter {name[:99]!a}: {suggest(name[:99], PARAMETERS)}")
        modality, top_k = query.get("modality"), query.get("top_k", str(self.top_k))
        if modality is not None and modality not in MODALITIES:
            raise RequestRefused(400, f"modality {modality[:99]!a}: {suggest(modality[:99], MODALITIES)}")
        if not (top_k.isascii() and top_k.isdigit() and len(top_k) < 10 and int(top_k) > 0):
            raise RequestRefused(400, f"top_k {top_k[:99]!a}: give a whole number from 1")
        return modality, int(top_k)

    def _refuse(self, refused: RequestRefused, unread: bool) -> Response:
        headers = SAFE_HEADERS | ({"Retry-After": "1"} if refused.status == 503 else {})
        content = {"error": str(refused)}
        if unread:
            return EarlyResponse(content, refused.status, headers, self.limits.max_bytes)
        return JSONResponse(content, refused.status, headers)

    def _answer(self, predictions: Sequence[Prediction]) -> Response:
        """Return the predictions: 200 if one succeeded, 415 if no item has a known modality, else 422."""
        for p in predictions:
            self.metrics.items.labels(p.modality or "unknown", "error" if p.error else "ok").inc()
        answer: dict[str, Any] = {"items": [p.record() for p in predictions]}
        if any(p.error is None for p in predictions):
            return JSONResponse(answer, headers=SAFE_HEADERS)
        rest = f" (and {len(predictions) - 1} other items failed)" if len(predictions) > 1 else ""
        unknown = all(p.modality is None and not isinstance(p, DecoderDeath) for p in predictions)
        content = {"error": f"{predictions[0].error}{rest}", **answer}
        return JSONResponse(content, 415 if unknown else 422, SAFE_HEADERS)

    async def health(self, request: Request) -> Response:
        learner, classes = self.learner, self.batches.predictors[False].classes
        encoder = learner.encoder.name
        return JSONResponse(
            {
                "ok": True,
                "model": self.name,
                "method": learner.method.name,
                # A client need not know the folders of this machine.
                "encoder": Path(encoder).name if encoder.startswith((".", "/")) else encoder,
                "classes": [{"modality": m or None, "class": c} for m, c in classes.keys],
                "modalities": list(dict.fromkeys(task["modality"] for task in learner.tasks)),
                "max_bytes": self.limits.max_bytes,
                "max_items": self.limits.max_items,
            },
            headers=SAFE_HEADERS,
        )

    async def counters(self, request: Request) -> Response:
        text = generate_latest(self.metrics.registry)
        return Response(text, headers=SAFE_HEADERS, media_type=CONTENT_TYPE_LATEST)

    async def page(self, request: Request) -> Response:
        headers = SAFE_HEADERS | {"Content-Security-Policy": content_policy()}
        return HTMLResponse(render_page(MODALITIES), headers=headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    line = f"{error.detail}: use POST /predict, or GET /, /healthz or /metrics"
    return JSONResponse({"error": line}, error.status_code, {**SAFE_HEADERS, **(error.headers or {})})


async def _internal_error(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "a fault of the server; its log has the traceback"}, 500, SAFE_HEADERS)


def make_app(
    learner: Learner, limits: Limits, *, top_k: int = 5, classes: Sequence[str] | None = None, name: str = "learner"
) -> Starlette:
    """Return the ASGI application that serves a learner.

    Args:
        limits: limits on requests, batches and decoding.
        top_k: number of classes in an answer whose request does not give one.
        classes: texts to choose from in place of the classes learned.
        name: the name of the model in /healthz.

    Raises:
        IsolationError: no decoding process can be started.
        RunError: the learner has learned nothing.
        ConfigError: ``classes`` were given, and the method scores no texts.

    Example::

        app = make_app(Learner.load("runs/demo"), Limits())
        uvicorn.run(app)
    """
    service = _Service(learner, limits, top_k, classes, name)
    routes = [
        Route("/", service.page),
        Route("/predict", service.predict, methods=["POST"]),
        Route("/healthz", service.health),
        Route("/metrics", service.counters),
    ]
    paths = frozenset(route.path for route in routes)
    app = Starlette(
        routes=routes,
        lifespan=service.lifespan,
        middleware=[Middleware(CountingMiddleware, service.metrics, paths)],
        exception_handlers={HTTPException: _http_error, Exception: _internal_error},
    )
    app.router.redirect_slashes = False  # after a redirect a client would send its body again
    app.state.metrics = service.metrics
    return app
