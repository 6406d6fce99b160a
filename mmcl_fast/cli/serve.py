"""The command that serves predictions over HTTP."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from mmcl_fast.cli.common import Debug, Device, Run, app, check_device, handle_errors
from mmcl_fast.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


@app.command()
@handle_errors
def serve(
    run: Run,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 chooses a free one.")] = 8765,
    top_k: Annotated[int, typer.Option(min=1, help="Classes in an answer whose request does not give a number.")] = 5,
    max_bytes: Annotated[str, typer.Option(metavar="SIZE", help="Size of a request, such as 500kB.")] = "32MB",
    max_concurrent: Annotated[int, typer.Option(min=1, help="Requests at once. A request beyond them gets 503.")] = 64,
    max_batch: Annotated[int, typer.Option(min=1, help="Items that the model predicts together.")] = 32,
    wait_ms: Annotated[float, typer.Option(min=0, help="Time that a decoded item waits for others, in ms.")] = 5.0,
    max_decode_mb: Annotated[
        float, typer.Option(min=1, help="Memory to decode one item, in 10^6 bytes (on Linux).")
    ] = 2000.0,
    max_decode_seconds: Annotated[
        float, typer.Option(min=0.001, help="Processor time to decode one item, in seconds.")
    ] = 30.0,
    max_decode_wait: Annotated[float, typer.Option(min=0.001, help="Time to decode one item, in seconds.")] = 60.0,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT,...",
            help="Texts to choose from in place of the classes learned, as in predict.",
            show_default=False,
        ),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Take over the run's current version whenever it changes.")
    ] = False,
    feedback: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Turn POST /feedback on: it keeps files with their right labels in this folder. Needs a token.",
            show_default=False,
        ),
    ] = None,
    feedback_new_classes: Annotated[
        bool, typer.Option("--feedback-new-classes", help="Take labels that the run has not learned, too.")
    ] = False,
    feedback_max_files: Annotated[int, typer.Option(min=1, help="Files of feedback that are kept at most.")] = 10_000,
    feedback_max_bytes: Annotated[
        str, typer.Option(metavar="SIZE", help="Size of all files of feedback together.")
    ] = "1GB",
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="A file with the bearer token that guards /feedback. Without it: the variable MMCL_FAST_TOKEN.",
            show_default=False,
        ),
    ] = None,
    require_token: Annotated[
        bool, typer.Option("--require-token", help="Guard all addresses. Only the page opens, and asks for the token.")
    ] = False,
    tls_cert: Annotated[
        Path | None, typer.Option(help="The certificate, in PEM form: serve HTTPS.", show_default=False)
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="The certificate's key, in PEM form.", show_default=False)
    ] = None,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Predict files and lines of text over HTTP: POST /predict, and a page to drop files on.

    GET /healthz describes the model, GET /version the version that answers, and GET /metrics has counters for
    Prometheus. With --watch the server takes over new versions without losing a request. It listens on this machine
    alone unless --host says otherwise. Before others can reach it, give it a token and a certificate, or put a proxy in
    front. Ctrl-C and SIGTERM end it with exit code 0 after the requests in flight.

    Worker processes decode the files. If a file ends its worker or exceeds a limit, that file's answer is 422 with the
    reason.

    Example: `mmcl-fast serve runs/demo --port 8765 --max-bytes 8MB`, then
    `curl --data-binary @bark.wav 127.0.0.1:8765/predict`
    """
    from mmcl_fast.serve import Feedback, Limits
    from mmcl_fast.serve import serve as serve_run
    from mmcl_fast.serve.bearer import VARIABLE, read_token

    limits = Limits(
        max_bytes=parse_size(max_bytes),
        max_concurrent=max_concurrent,
        max_batch=max_batch,
        wait_ms=wait_ms,
        max_decode_mb=max_decode_mb,
        max_decode_seconds=max_decode_seconds,
        max_decode_wait=max_decode_wait,
    )
    if feedback_new_classes and feedback is None:
        raise UserError("--feedback-new-classes: needs --feedback FOLDER")
    kept = None
    if feedback is not None:
        size = parse_size(feedback_max_bytes, "--feedback-max-bytes")
        kept = Feedback(feedback, feedback_new_classes, feedback_max_files, size)
    token = read_token(token_file)
    if token is not None and feedback is None and not require_token:
        where = VARIABLE if token_file is None else f"--token-file {token_file}"
        line = f"{where}: guards no address: add --feedback FOLDER or --require-token"
        if token_file is not None:
            raise UserError(line)
        print(f"note: {line}", file=sys.stderr)
        token = None
    if token is not None and tls_cert is None and host not in LOOPBACK:
        print("note: without --tls-cert and --tls-key the token crosses the network unencrypted", file=sys.stderr)
    check_device(device)
    serve_run(
        run,
        host=host,
        port=port,
        top_k=top_k,
        limits=limits,
        device=device,
        classes=None if classes is None else classes.split(","),
        watch=watch,
        feedback=kept,
        token=token,
        require_token=require_token,
        tls_cert=tls_cert,
        tls_key=tls_key,
    )


def parse_size(text: str, option: str = "--max-bytes") -> int:
    """Return the bytes that ``32MB``, ``500 kB``, ``1GiB`` or ``1000`` means."""
    found = re.fullmatch(r"(\d{1,15})\s*(|[kmg]i?)b?", text.strip().lower())
    size = int(found[1]) * UNITS[found[2]] if found else 0
    if not size:
        raise UserError(f"{option} {text}: give a size such as 500kB, 32MB or 1GiB")
    return size
