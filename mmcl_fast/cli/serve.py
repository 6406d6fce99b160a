"""The command that answers over HTTP."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from mmcl_fast.cli.common import Debug, Device, Run, app, check_device, guarded
from mmcl_fast.errors import UserError

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


@app.command()
@guarded
def serve(
    run: Run,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8765,
    top_k: Annotated[int, typer.Option(min=1, help="Classes told where a request does not say how many.")] = 5,
    max_bytes: Annotated[str, typer.Option(metavar="SIZE", help="Of a request, such as 500kB.")] = "32MB",
    max_concurrent: Annotated[int, typer.Option(min=1, help="Requests at once; others are told to come again.")] = 64,
    max_batch: Annotated[int, typer.Option(min=1, help="Items that the model sees together.")] = 32,
    wait_ms: Annotated[float, typer.Option(min=0, help="How long a decoded item waits for others to join it.")] = 5.0,
    max_decode_mb: Annotated[
        float, typer.Option(min=1, help="Memory that decoding one item may take, 10^6 bytes (held on Linux).")
    ] = 2000.0,
    max_decode_seconds: Annotated[
        float, typer.Option(min=0.001, help="Processor time that decoding one item may take.")
    ] = 30.0,
    max_decode_wait: Annotated[float, typer.Option(min=0.001, help="Seconds that decoding one item may last.")] = 60.0,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT,...",
            help="Texts that compete in place of the classes learned, as in predict.",
            show_default=False,
        ),
    ] = None,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Answer over HTTP what files and lines of text are taken for: POST /predict, and a page to drop files on.

    Also /healthz, and /metrics for Prometheus. It knows no users and no encryption, and listens on this machine only
    unless told otherwise: put a proxy in front before others can reach it. Ctrl-C and SIGTERM end it with exit code 0
    once the requests in flight are answered.

    Files are decoded in processes of their own. One that a file ends, or that takes more than the limits, costs that
    file's answer: 422 and a line that says so.

    Example: `mmcl-fast serve runs/demo --port 8765 --max-bytes 8MB`, then
    `curl --data-binary @bark.wav 127.0.0.1:8765/predict`
    """
    from mmcl_fast import serve as serving

    limits = serving.Limits(
        max_bytes=_size(max_bytes),
        max_concurrent=max_concurrent,
        max_batch=max_batch,
        wait_ms=wait_ms,
        max_decode_mb=max_decode_mb,
        max_decode_seconds=max_decode_seconds,
        max_decode_wait=max_decode_wait,
    )
    check_device(device)
    serving.serve(
        run,
        host=host,
        port=port,
        top_k=top_k,
        limits=limits,
        device=device,
        classes=None if classes is None else classes.split(","),
    )


def _size(text: str) -> int:
    """Bytes of ``32MB``, ``500 kB``, ``1GiB`` or ``1000``."""
    found = re.fullmatch(r"(\d{1,15})\s*(|[kmg]i?)b?", text.strip().lower())
    size = int(found[1]) * UNITS[found[2]] if found else 0
    if not size:
        raise UserError(f"--max-bytes {text}: give a size such as 500kB, 32MB or 1GiB")
    return size
