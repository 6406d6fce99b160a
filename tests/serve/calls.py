"""Servers in a thread or a process for the tests, and requests to them."""

from __future__ import annotations

import http.client
import json
import os
import re
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from mmcl_fast.learning import Learner
from mmcl_fast.serve import Limits

BOUNDARY = "a-boundary"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


@dataclass
class Answer:
    """The answer to a request; the names of its headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def value(self) -> Any:
        return json.loads(self.body)


@contextmanager
def serve_in_thread(
    learner: Learner, limits: Limits | None = None, classes: Sequence[str] | None = None, **options: Any
) -> Iterator[int]:
    """Run a server in a thread; gives its port. ``options``: of ``make_app``."""
    from mmcl_fast.serve.app import make_app
    from mmcl_fast.serve.server import Server, bind_socket

    limits, ready = limits or Limits(), threading.Event()
    with bind_socket("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
        server = Server(make_app(learner, limits, classes=classes, **options), limits, ready.set)
        del learner, options
        thread = threading.Thread(target=server.run, args=([sock],), daemon=True)
        thread.start()
        assert ready.wait(30)
        yield port
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


@contextmanager
def serve_process(
    run: Path, log: Path, *words: object, env: dict[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run ``mmcl-fast serve`` in a process; gives the process and its port. Its standard error goes to ``log``.

    ``env``: environment variables besides this process's own.
    """
    command = [sys.executable, "-m", "mmcl_fast", "serve", run, "--port", 0, "--device", "cpu", *words]
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [str(word) for word in command],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **(env or {})},
        ) as process,
    ):
        try:
            assert process.stdout is not None and select.select([process.stdout], [], [], 120)[0]
            line = process.stdout.readline()
            found = re.search(r"https?://127\.0\.0\.1:(\d+)", line)
            assert found, line
            yield process, int(found[1])
        finally:
            process.kill()


def ask(port: int, path: str = "/predict", body: Any = None, method: str = "", **headers: str) -> Answer:
    """Send a request: POST if it has a body, else GET. The header Content-Type is given as ``content_type``."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, body, named)
        answer = connection.getresponse()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def form(*parts: tuple[str, str | None, bytes]) -> bytes:
    """Return (field, file name or None, content) of each part as a multipart/form-data body."""
    out = b""
    for field, name, data in parts:
        named = "" if name is None else f'; filename="{name}"'
        out += (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"{named}\r\n\r\n'.encode() + data + b"\r\n"
        )
    return out + f"--{BOUNDARY}--\r\n".encode()


def send_raw(port: int, data: bytes, seconds: float = 10.0, end: bool = False) -> bytes:
    """Send bytes; return all that comes back until the server closes the connection or is silent for ``seconds``.

    Args:
        end: close the sending side after the bytes.
    """
    out = b""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as sock:
        try:
            sock.sendall(data)
            if end:
                sock.shutdown(socket.SHUT_WR)
            while part := sock.recv(1 << 16):
                out += part
        except OSError:
            pass
    return out


def read_counters(port: int) -> dict[str, float]:
    """Return every number of /metrics by its name, such as ``requests_total{path=/predict,status=200}``."""
    text = ask(port, "/metrics").body.decode()
    return {
        f"{s.name}{{{','.join(f'{k}={v}' for k, v in sorted(s.labels.items()))}}}": s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def read_resources(process: int) -> tuple[int, int, int]:
    """Return the open descriptors, threads and resident bytes of a process (Linux)."""
    status = Path(f"/proc/{process}/status").read_text()
    threads, kilobytes = (int(re.search(rf"{name}:\s*(\d+)", status)[1]) for name in ("Threads", "VmRSS"))
    return len(os.listdir(f"/proc/{process}/fd")), threads, 1024 * kilobytes
