"""The application: what is answered under which address."""

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
from mmcl_fast.serve import body, page
from mmcl_fast.serve.batches import Batches, Killer
from mmcl_fast.serve.body import Refused
from mmcl_fast.serve.limits import Limits
from mmcl_fast.serve.metrics import GONE, Counted, Metrics

PARAMETERS = ("modality", "top_k")
LINGER = 1.0  # seconds
SAFE = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


class Unread(JSONResponse):
    """An answer to a request whose body was not read to its end.

    What still comes is dropped for at most ``LINGER`` seconds and ``most`` bytes, so that a client that listens only
    once it has sent all hears the answer; then the connection ends.
    """

    def __init__(self, content: Any, status: int, headers: dict[str, str], most: int) -> None:
        super().__init__(content, status, headers | {"Connection": "close"})
        self.most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._drop(receive), LINGER)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _drop(self, receive: Receive) -> None:
        size, more = 0, True
        while more and size < self.most:
            message = await receive()
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)


class _Service:
    """The answers; see ``make_app`` for the arguments."""

    def __init__(self, learner: Learner, limits: Limits, top_k: int, classes: Sequence[str] | None, name: str) -> None:
        self.learner, self.limits, self.top_k, self.name = learner, limits, top_k, name
        self.metrics = Metrics()
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
            line = f"{self.in_flight} requests are being served, as many as may be at once: come again"
            return self._refusal(Refused(503, line), True)
        self.in_flight += 1
        self.metrics.in_flight.set(self.in_flight)
        unread = True
        try:
            modality, top_k = self._asked(request)
            data = await body.read(request, self.limits)
            unread = False
            kind = request.headers.get("content-type", "")
            loop = asyncio.get_running_loop()
            items = await loop.run_in_executor(self.batches.threads, body.items, data, kind, modality, self.limits)
            del data
            found = await asyncio.gather(*(self.batches.predict(item, top_k) for item in items))
        except Refused as no:
            return self._refusal(no, unread)
        except ClientDisconnect:
            return Response(status_code=GONE)
        finally:
            self.in_flight -= 1
            self.metrics.in_flight.set(self.in_flight)
        return self._answer(found)

    def _asked(self, request: Request) -> tuple[str | None, int]:
        """Modality and number of classes that the address asks for."""
        asked = dict(request.query_params)
        for name in asked:
            if name not in PARAMETERS:
                raise Refused(400, f"parameter {name[:99]!a}: {suggest(name[:99], PARAMETERS)}")
        modality, top_k = asked.get("modality"), asked.get("top_k", str(self.top_k))
        if modality is not None and modality not in MODALITIES:
            raise Refused(400, f"modality {modality[:99]!a}: {suggest(modality[:99], MODALITIES)}")
        if not (top_k.isascii() and top_k.isdigit() and len(top_k) < 10 and int(top_k) > 0):
            raise Refused(400, f"top_k {top_k[:99]!a}: give a whole number from 1 on")
        return modality, int(top_k)

    def _refusal(self, no: Refused, unread: bool) -> Response:
        headers = SAFE | ({"Retry-After": "1"} if no.status == 503 else {})
        if unread:
            return Unread({"error": str(no)}, no.status, headers, self.limits.max_bytes)
        return JSONResponse({"error": str(no)}, no.status, headers)

    def _answer(self, found: Sequence[Prediction]) -> Response:
        for p in found:
            self.metrics.items.labels(p.modality or "unknown", "error" if p.error else "ok").inc()
        answer: dict[str, Any] = {"items": [p.record() for p in found]}
        if any(p.error is None for p in found):
            return JSONResponse(answer, headers=SAFE)
        rest = f" (nor can the {len(found) - 1} others)" if len(found) > 1 else ""
        unknown = all(p.modality is None and not isinstance(p, Killer) for p in found)
        return JSONResponse({"error": f"{found[0].error}{rest}", **answer}, 415 if unknown else 422, SAFE)

    async def health(self, request: Request) -> Response:
        learner, classes = self.learner, self.batches.predictors[False].classes
        encoder = learner.encoder.name
        return JSONResponse(
            {
                "ok": True,
                "model": self.name,
                "method": learner.method.name,
                "encoder": Path(encoder).name if encoder.startswith((".", "/")) else encoder,  # a folder is nobody's
                "classes": [{"modality": m or None, "class": c} for m, c in classes.keys],
                "modalities": list(dict.fromkeys(task["modality"] for task in learner.tasks)),
                "max_bytes": self.limits.max_bytes,
                "max_items": self.limits.max_items,
            },
            headers=SAFE,
        )

    async def figures(self, request: Request) -> Response:
        return Response(generate_latest(self.metrics.registry), headers=SAFE, media_type=CONTENT_TYPE_LATEST)

    async def page(self, request: Request) -> Response:
        return HTMLResponse(page.html(list(MODALITIES)), headers=SAFE | {"Content-Security-Policy": page.POLICY})


async def _http_fault(request: Request, fault: Exception) -> Response:
    assert isinstance(fault, HTTPException)
    line = f"{fault.detail}: POST /predict, GET /, /healthz and /metrics are here"
    return JSONResponse({"error": line}, fault.status_code, {**SAFE, **(fault.headers or {})})


async def _own_fault(request: Request, fault: Exception) -> Response:
    return JSONResponse({"error": "a fault of the server; its log has it"}, 500, SAFE)


def make_app(
    learner: Learner, limits: Limits, *, top_k: int = 5, classes: Sequence[str] | None = None, name: str = "learner"
) -> Starlette:
    """The ASGI application that serves a learner.

    Args:
        top_k: classes told of an item where the request does not say how many.
        classes: texts that compete in place of the classes learned.
        name: of the model, for /healthz.

    Raises:
        IsolationError: no process that decodes can be started.
        RunError: nothing has been learned.
        ConfigError: ``classes`` with a method that does not score texts.
    """
    service = _Service(learner, limits, top_k, classes, name)
    routes = [
        Route("/", service.page),
        Route("/predict", service.predict, methods=["POST"]),
        Route("/healthz", service.health),
        Route("/metrics", service.figures),
    ]
    paths = frozenset(route.path for route in routes)
    app = Starlette(
        routes=routes,
        lifespan=service.lifespan,
        middleware=[Middleware(Counted, service.metrics, paths)],
        exception_handlers={HTTPException: _http_fault, Exception: _own_fault},
    )
    app.router.redirect_slashes = False
    app.state.metrics = service.metrics
    return app
