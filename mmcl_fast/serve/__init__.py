"""A model behind HTTP: it takes files and lines of text, and answers with classes.

- ``POST /predict`` takes a form, or one file or text as the body. A form (``multipart/form-data``) holds files, and
  lines of text in the field ``text``. ``?modality=`` gives the modality, ``?top_k=`` the number of classes. The answer
  has an item for each file and line, in the form that ``mmcl-fast predict --json`` prints.
- ``POST /feedback`` keeps a file with its right label in a folder that ``mmcl-fast learn`` takes. It is off unless
  ``feedback`` turns it on, and needs a token.
- ``GET /healthz`` describes the model, and ``GET /version`` the version that answers.
- ``GET /metrics`` has counters for Prometheus.
- ``GET /`` is a page to drop files on.

Each answer names the version that gave it. With ``watch`` another version takes over as soon as it is the current one.
Requests that began keep their version, so none is lost. A version that can't be loaded is reported, and the one before
goes on.

What the server guards against: it listens on this machine alone unless ``host`` says otherwise. A request holds bytes,
never a path or an address. Decoders open no other file. ``Limits`` bounds bodies, items, concurrent requests and the
time to send a request, and the [media] limits of the run hold. A bearer token guards /feedback, or all addresses.
``tls_cert`` and ``tls_key`` encrypt.

What it lacks: users with different rights, and a limit on how often a client asks. Put a proxy that has these in front
of the server before others can reach it.

Decoders of untrusted files have bugs: they abort, hang and eat memory. So worker processes recognise and decode
uploads; only texts, which our own code reads, are decoded in the server. A worker that dies or exceeds a limit costs
the answer of one item: 422 and one line with the reason. A new worker takes its place, /metrics counts the death, and
no other request notices.

``media.engines.isolation.sandbox`` lists what a worker may not do on each system. On Linux a worker opens no file of
the user, reaches no network, and starts, signals or traces no other process. On macOS only its time is limited. On
Windows the server itself decodes. A reader of a ``--use`` file runs in the workers, too.

Example::

    from mmcl_fast.serve import Limits, serve

    serve("runs/demo", port=8765, limits=Limits(max_bytes=8_000_000))
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mmcl_fast.errors import UserError
from mmcl_fast.serve.bearer import VARIABLE, BearerToken
from mmcl_fast.serve.limits import Feedback, Limits

__all__ = ["Feedback", "Limits", "serve"]

REQUIRED_PACKAGES = ("h11", "prometheus_client", "python_multipart", "starlette", "uvicorn")


def serve(
    run: Path | str,
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    top_k: int = 5,
    limits: Limits | None = None,
    device: str = "auto",
    classes: Sequence[str] | None = None,
    watch: bool = False,
    feedback: Feedback | None = None,
    token: str | None = None,
    require_token: bool = False,
    tls_cert: Path | str | None = None,
    tls_key: Path | str | None = None,
) -> None:
    """Serve a run until SIGINT or SIGTERM, and then answer the requests in flight. Prints the address.

    Args:
        run: a run folder of ``mmcl-fast train`` or a folder of ``Learner.save``.
        host: the address to listen on; 0.0.0.0 lets other machines in.
        port: 0 chooses a free one.
        top_k: number of classes in an answer whose request does not give one.
        limits: limits on requests, batches and decoding; None: the defaults of ``Limits``.
        device: "auto", "cpu", "cuda" or "cuda:N".
        classes: texts to choose from in place of the classes learned.
        watch: look at the run's pointer every second, and serve the version that is current then.
        feedback: the folder that keeps feedback; None: /feedback is off.
        token: at least 16 characters that guard /feedback; see ``require_token``.
        require_token: the token guards all addresses, except the page, which asks for it.
        tls_cert, tls_key: files of a certificate and its key in PEM form; both turn TLS on.

    Raises:
        UserError: a package or the run is missing, the address is taken, or there are ``classes`` and the method scores
            no texts. Likewise for a folder, token or certificate that can't be used, for feedback without a token, and
            for a token that guards nothing.

    Example::

        serve("runs/demo", port=0, top_k=1)
    """
    try:
        from mmcl_fast.serve import server
        from mmcl_fast.serve.app import make_app
        from mmcl_fast.serve.feedback import FeedbackFolder
    except ModuleNotFoundError as fault:
        if fault.name not in REQUIRED_PACKAGES:
            raise
        raise UserError(f"serve needs the package {fault.name}: pip install 'mmcl-fast[serve]'") from None
    from mmcl_fast.media.engines import isolation
    from mmcl_fast.serve.served import load_current
    from mmcl_fast.serve.watch import Watcher

    run, limits = Path(run), limits or Limits()
    guard = _make_guard(token, feedback is not None, require_token)
    if (tls_cert is None) != (tls_key is None):
        raise UserError("--tls-cert and --tls-key: give both, or neither")
    certificate = None
    if tls_cert is not None and tls_key is not None:
        certificate = server.Certificate(Path(tls_cert), Path(tls_key))
    with server.bind_socket(host, port) as sock:
        # Before the first version is loaded: a move of the pointer meanwhile must not be missed.
        watcher = Watcher(run, device) if watch else None
        folder = None if feedback is None else FeedbackFolder(feedback)
        isolation.prepare()  # worker processes start while the learner loads
        learner, version = load_current(run, device)
        name = "" if version.number is None else f"version {version.number}, "
        line = f"{run}: {name}{len(learner.classes)} classes learned by {learner.method.name}, on "
        line += f"{server.address_of(sock, certificate)} (Ctrl-C ends it)"
        app = make_app(
            learner,
            limits,
            top_k=top_k,
            classes=classes,
            name=run.resolve().name,
            version=version,
            watcher=watcher,
            feedback=folder,
            token=guard,
            require_token=require_token,
        )
        del learner  # a version that is served no more must not stay in memory

        def print_address() -> None:
            with suppress(UserError):  # a closed or full standard output does not stop the server
                print(line, flush=True)

        server.Server(app, limits, print_address, certificate).run([sock])


def _make_guard(token: str | None, feedback: bool, require_token: bool) -> BearerToken | None:
    """Return the token that guards, after a check that there is one where one is needed."""
    if token is not None and not (feedback or require_token):
        raise UserError("token: guards no address: give feedback or require_token too")
    if token is not None:
        return BearerToken(token)
    for needed, option in ((feedback, "--feedback"), (require_token, "--require-token")):
        if needed:
            raise UserError(f"{option}: needs a token: give --token-file, or set the variable {VARIABLE}")
    return None
