"""A model behind HTTP: it takes files and lines of text, and answers with classes.

- ``POST /predict`` takes a form, or one file or text as the body. A form (``multipart/form-data``) holds files, and
  lines of text in the field ``text``. ``?modality=`` gives the modality, ``?top_k=`` the number of classes. The answer
  has an item for each file and line, in the form that ``mmcl-fast predict --json`` prints.
- ``GET /healthz`` describes the model.
- ``GET /metrics`` has counters for Prometheus.
- ``GET /`` is a page to drop files on.

What the server guards against: it listens on this machine alone unless ``host`` says otherwise. A request holds bytes,
never a path or an address. Decoders open no other file. ``Limits`` bounds bodies, items, concurrent requests and the
time to send a request, and the [media] limits of the run hold.

What it lacks: users, keys, encryption, and a limit on how often a client asks. Put a proxy that has these in front of
the server before others can reach it.

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
from mmcl_fast.serve.limits import Limits

__all__ = ["Limits", "serve"]

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

    Raises:
        UserError: a package or the run is missing, the address is taken, or there are ``classes`` and the method scores
            no texts.

    Example::

        serve("runs/demo", port=0, top_k=1)
    """
    try:
        from mmcl_fast.serve import server
        from mmcl_fast.serve.app import make_app
    except ModuleNotFoundError as fault:
        if fault.name not in REQUIRED_PACKAGES:
            raise
        raise UserError(f"serve needs the package {fault.name}: pip install 'mmcl-fast[serve]'") from None
    from mmcl_fast.learning import Learner
    from mmcl_fast.media.engines import isolation

    run, limits = Path(run), limits or Limits()
    with server.bind_socket(host, port) as sock:
        isolation.prepare()  # worker processes start while the learner loads
        learner = Learner.load(run, device=device)
        app = make_app(learner, limits, top_k=top_k, classes=classes, name=run.resolve().name)

        def print_address() -> None:
            line = f"{len(learner.classes)} classes learned by {learner.method.name}, on {server.address_of(sock)}"
            with suppress(UserError):  # a closed or full standard output does not stop the server
                print(f"{run}: {line} (Ctrl-C ends it)", flush=True)

        server.Server(app, limits, print_address).run([sock])
