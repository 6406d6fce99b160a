"""A learner behind HTTP: files and lines of text in, classes out.

``POST /predict`` takes a form (``multipart/form-data``: files, and lines of text in the field ``text``) or one file or
text as the body; ``?modality=`` says how it is to be read, ``?top_k=`` how many classes to tell. The answer holds an
item for each file and line, as ``mmcl-fast predict --json`` prints them. ``GET /healthz`` tells what is served,
``GET /metrics`` what Prometheus collects, ``GET /`` is a page to drop files on.

What it guards against, and what not: it listens on this machine only unless told otherwise. A request holds bytes and
never a path or address, and what decodes them opens no other file. Bodies, items, requests at once, and the time a
request takes to come are limited, and the run's [media] limits hold. It knows no users, no keys, no encryption and no
limit on how often one client asks: before others can reach it, put a proxy that does in front.

Decoders of untrusted files have faults: they abort, hang and eat memory. So uploads are recognised and decoded in
worker processes, except texts, which our own code reads. A worker that dies, or that needs more memory, processor time
or time than one item may take, costs that item's answer: 422 and one line that says so. /metrics counts it, a new
worker takes its place, and no other request notices. ``media.isolation.sandbox`` says what a worker may not do on which
system. On Linux it opens no file of the user's, reaches no network, and starts, signals and traces no other process.
macOS limits processor time and time only. On Windows the server itself decodes. A reader that ``--use`` names runs in
the workers, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mmcl_fast.errors import UserError
from mmcl_fast.serve.limits import Limits

__all__ = ["Limits", "serve"]

NEEDS = ("h11", "prometheus_client", "python_multipart", "starlette", "uvicorn")


def serve(
    run: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    top_k: int = 5,
    limits: Limits | None = None,
    device: str = "auto",
    classes: Sequence[str] | None = None,
) -> None:
    """Serve a run until SIGINT or SIGTERM; requests in flight are answered first. Prints the address.

    Args:
        port: 0 takes a free one.
        top_k: classes told of an item where the request does not say how many.
        classes: texts that compete in place of the classes learned.

    Raises:
        UserError: a package or the run is missing, the address is taken, or ``classes`` do not fit the method.
    """
    try:
        from mmcl_fast.serve import server
        from mmcl_fast.serve.app import make_app
    except ModuleNotFoundError as fault:
        if fault.name not in NEEDS:
            raise
        raise UserError(f"serve needs the package {fault.name}: pip install 'mmcl-fast[serve]'") from None
    from mmcl_fast.learning import Learner
    from mmcl_fast.media.engines import isolation

    limits = limits or Limits()
    with server.bound(host, port) as sock:
        isolation.prepare()  # beside the loading of the learner
        learner = Learner.load(run, device=device)
        app = make_app(learner, limits, top_k=top_k, classes=classes, name=run.resolve().name)

        def ready() -> None:
            line = f"{len(learner.classes)} classes learned by {learner.method.name}, on {server.address_of(sock)}"
            with suppress(UserError):  # a closed or full standard output ends no service
                print(f"{run}: {line} (Ctrl-C ends it)", flush=True)

        server.Server(app, limits, ready).run([sock])
