"""The application: the answer to each address."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from mmcl_fast.errors import suggest
from mmcl_fast.learning import Learner, Prediction
from mmcl_fast.media import MODALITIES
from mmcl_fast.media.engines.isolation import DecoderDied, Pool
from mmcl_fast.serve.auth import TokenMiddleware
from mmcl_fast.serve.batches import Batches, DecoderDeath, error_line
from mmcl_fast.serve.bearer import BearerToken
from mmcl_fast.serve.body import RequestRefused, find_items, read_body
from mmcl_fast.serve.feedback import FeedbackFolder, Kept
from mmcl_fast.serve.feedback_form import find_labelled_item
from mmcl_fast.serve.limits import Limits
from mmcl_fast.serve.metrics import CLIENT_CLOSED_REQUEST, CountingMiddleware, ServerMetrics
from mmcl_fast.serve.page import content_policy, render_page
from mmcl_fast.serve.responses import SAFE_HEADERS, EarlyResponse
from mmcl_fast.serve.served import ServedModel, ServedVersion
from mmcl_fast.serve.watch import Watcher

Found = TypeVar("Found")
PARAMETERS = ("modality", "top_k")
FEEDBACK = "/feedback"
NO_TOKEN = frozenset({"/"})  # the page asks for the token, and shows nothing of the model before it has one


class _Service:
    """One method for each route. ``make_app`` explains the arguments."""

    def __init__(
        self,
        learner: Learner,
        limits: Limits,
        top_k: int,
        classes: Sequence[str] | None,
        name: str,
        version: ServedVersion,
        watcher: Watcher | None,
        feedback: FeedbackFolder | None,
    ) -> None:
        self.limits, self.top_k, self.name = limits, top_k, name
        self.watcher, self.folder = watcher, feedback
        self.metrics = ServerMetrics()
        died = self.metrics.died
        self.batches = Batches(
            learner, version, limits, classes, self.metrics.batch.observe, lambda reason: died.labels(reason).inc()
        )
        self.metrics.version.set(version.number or 0)
        decoders = self.batches.decoders
        self.metrics.decoders.set_function(lambda: decoders.alive if isinstance(decoders, Pool) else 0)
        self.in_flight = 0

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        work = [asyncio.create_task(self.batches.work())]
        if self.watcher is not None:
            watching = self.watcher.work(lambda: self.batches.model.version.number, self.take_over, self.count_failure)
            work.append(asyncio.create_task(watching))
        yield
        for task in work:
            task.cancel()
        if self.watcher is not None:
            self.watcher.close()
        self.batches.close()

    async def take_over(self, learner: Learner, version: ServedVersion) -> None:
        await self.batches.take_over(learner, version)
        self.metrics.version.set(version.number or 0)
        self.metrics.swaps.labels("ok").inc()

    def count_failure(self) -> None:
        self.metrics.swaps.labels("failed").inc()

    async def _admit(self, request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        """Answer a request with a body, unless too many of them are being served."""
        if self.in_flight >= self.limits.max_concurrent:
            line = f"{self.in_flight} requests are being served, as many as are allowed at once: try again"
            return self._refuse(RequestRefused(503, line), unread=True)
        self.in_flight += 1
        self.metrics.in_flight.set(self.in_flight)
        request.state.is_read = False
        try:
            return await answer(request)
        except RequestRefused as refused:
            return self._refuse(refused, unread=not request.state.is_read)
        except ClientDisconnect:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        finally:
            self.in_flight -= 1
            self.metrics.in_flight.set(self.in_flight)

    async def _find(self, request: Request, find: Callable[[bytes, str], Found]) -> Found:
        """Read the body, and return what ``find`` finds in it."""
        body = await read_body(request, self.limits)
        request.state.is_read = True
        kind = request.headers.get("content-type", "")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.batches.decode_threads, find, body, kind)

    async def predict(self, request: Request) -> Response:
        return await self._admit(request, self._predict)

    async def _predict(self, request: Request) -> Response:
        modality, top_k = self._parse_query(request)
        items = await self._find(request, lambda body, kind: find_items(body, kind, modality, self.limits))
        model = self.batches.model  # one version answers all items, also if another takes over meanwhile
        predictions = await asyncio.gather(*(self.batches.predict(item, top_k, model) for item in items))
        return self._answer(predictions, model)

    async def feedback(self, request: Request) -> Response:
        answer = await self._admit(request, self._keep_feedback)
        if answer.status_code >= 400:
            self.metrics.feedback.labels("refused").inc()
        return answer

    async def _keep_feedback(self, request: Request) -> Response:
        folder = self.folder
        if folder is None:
            raise RequestRefused(404, "feedback is off: start the server with --feedback FOLDER")
        for name in request.query_params:
            raise RequestRefused(
                400, f"parameter {name[:99]!a}: unknown; the form has fields for the label and modality"
            )
        labelled = await self._find(request, lambda body, kind: find_labelled_item(body, kind, self.limits))
        item, model = labelled.item, self.batches.model
        outcome = await self.batches.check(item, model)
        if outcome.error is not None or outcome.modality is None:
            unknown = outcome.modality is None and not isinstance(outcome.error, DecoderDied)
            raise RequestRefused(415 if unknown else 422, error_line(item, outcome.error))
        modality = outcome.modality

        def keep() -> Kept:
            label = folder.choose_label(labelled.label, modality, model.learned_classes())
            return folder.keep(item.data, modality, label)

        kept = await asyncio.get_running_loop().run_in_executor(self.batches.decode_threads, keep)
        self.metrics.feedback.labels("kept" if kept.new else "known").inc()
        return JSONResponse(asdict(kept), 201 if kept.new else 200, self._headers(model))

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

    def _headers(self, model: ServedModel) -> dict[str, str]:
        return SAFE_HEADERS | model.headers

    def _refuse(self, refused: RequestRefused, unread: bool) -> Response:
        headers = self._headers(self.batches.model) | ({"Retry-After": "1"} if refused.status == 503 else {})
        content = {"error": str(refused)}
        if unread:
            return EarlyResponse(content, refused.status, headers, self.limits.max_bytes)
        return JSONResponse(content, refused.status, headers)

    def _answer(self, predictions: Sequence[Prediction], model: ServedModel) -> Response:
        """Return the predictions: 200 if one succeeded, 415 if no item has a known modality, else 422."""
        for p in predictions:
            self.metrics.items.labels(p.modality or "unknown", "error" if p.error else "ok").inc()
        answer: dict[str, Any] = {"version": model.version.number, "items": [p.record() for p in predictions]}
        if any(p.error is None for p in predictions):
            return JSONResponse(answer, headers=self._headers(model))
        rest = f" (and {len(predictions) - 1} other items failed)" if len(predictions) > 1 else ""
        unknown = all(p.modality is None and not isinstance(p, DecoderDeath) for p in predictions)
        content = {"error": f"{predictions[0].error}{rest}", **answer}
        return JSONResponse(content, 415 if unknown else 422, self._headers(model))

    async def health(self, request: Request) -> Response:
        model = self.batches.model
        learner, classes = model.learner, model.predictors[False].classes
        encoder = learner.encoder.name
        return JSONResponse(
            {
                "ok": True,
                "model": self.name,
                "version": model.version.number,
                "method": learner.method.name,
                # A client need not know the folders of this machine.
                "encoder": Path(encoder).name if encoder.startswith((".", "/")) else encoder,
                "classes": [{"modality": m or None, "class": c} for m, c in classes.keys],
                "modalities": model.modalities,
                "max_bytes": self.limits.max_bytes,
                "max_items": self.limits.max_items,
            },
            headers=self._headers(model),
        )

    async def version(self, request: Request) -> Response:
        model = self.batches.model
        return JSONResponse(
            {
                "model": self.name,
                "version": model.version.number,
                "parent": model.version.parent,
                "learned_at": model.version.learned_at,
                "classes": len(model.predictors[False].classes),
                "modalities": model.modalities,
                "watching": self.watcher is not None,
                "last_failed": None if self.watcher is None else self.watcher.values(),
                "feedback": self.folder is not None,
            },
            headers=self._headers(model),
        )

    async def counters(self, request: Request) -> Response:
        text = generate_latest(self.metrics.registry)
        return Response(text, headers=SAFE_HEADERS, media_type=CONTENT_TYPE_LATEST)

    async def page(self, request: Request) -> Response:
        headers = SAFE_HEADERS | {"Content-Security-Policy": content_policy()}
        return HTMLResponse(render_page(MODALITIES), headers=headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    line = f"{error.detail}: use POST /predict or /feedback, or GET /, /healthz, /version or /metrics"
    return JSONResponse({"error": line}, error.status_code, {**SAFE_HEADERS, **(error.headers or {})})


async def _internal_error(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "a fault of the server; its log has the traceback"}, 500, SAFE_HEADERS)


def make_app(
    learner: Learner,
    limits: Limits,
    *,
    top_k: int = 5,
    classes: Sequence[str] | None = None,
    name: str = "learner",
    version: ServedVersion = ServedVersion(),
    watcher: Watcher | None = None,
    feedback: FeedbackFolder | None = None,
    token: BearerToken | None = None,
    require_token: bool = False,
) -> Starlette:
    """Return the ASGI application that serves a learner.

    Args:
        limits: limits on requests, batches and decoding.
        top_k: number of classes in an answer whose request does not give one.
        classes: texts to choose from in place of the classes learned.
        name: the name of the model in /healthz.
        version: the version that the learner is.
        watcher: finds other versions of the run, which take over; None: the learner stays.
        feedback: the folder that keeps feedback; None: /feedback answers 404.
        token: guards /feedback.
        require_token: the token guards all addresses, except the page.

    Raises:
        IsolationError: no decoding process can be started.
        RunError: the learner has learned nothing.
        ConfigError: ``classes`` were given, and the method scores no texts.

    Example::

        app = make_app(Learner.load("runs/demo"), Limits())
        uvicorn.run(app)
    """
    service = _Service(learner, limits, top_k, classes, name, version, watcher, feedback)
    routes = [
        Route("/", service.page),
        Route("/predict", service.predict, methods=["POST"]),
        Route(FEEDBACK, service.feedback, methods=["POST"]),
        Route("/healthz", service.health),
        Route("/version", service.version),
        Route("/metrics", service.counters),
    ]
    middleware = [Middleware(CountingMiddleware, service.metrics, frozenset(route.path for route in routes))]
    if token is not None:
        guarded = None if require_token else frozenset({FEEDBACK})
        middleware.append(Middleware(TokenMiddleware, token, guarded, NO_TOKEN, limits.max_bytes))
    app = Starlette(
        routes=routes,
        lifespan=service.lifespan,
        middleware=middleware,
        exception_handlers={HTTPException: _http_error, Exception: _internal_error},
    )
    app.router.redirect_slashes = False  # after a redirect a client would send its body again
    app.state.metrics = service.metrics
    return app
