"""Run the application on a socket: uvicorn, with a limit on the time in which a request has to arrive."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from mmcl_fast.errors import UserError
from mmcl_fast.serve.limits import Limits

SLACK_SECONDS = 2.0  # time for the application to answer 408 before the connection is closed


def bind_socket(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address.

    Args:
        host: an address, or the name of one.
        port: 0 chooses a free one.

    Raises:
        UserError: the address is taken, or is no address of this machine.
    """
    sock = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        return sock
    except OSError as fault:
        if sock is not None:
            sock.close()
        advice = "another program has it; choose another --port, 0 for a free one"
        if fault.errno != errno.EADDRINUSE:
            advice = "choose another --host or --port"
        raise UserError(f"serve: {host} port {port}: {fault.strerror}: {advice}") from None


def address_of(sock: socket.socket, certificate: Certificate | None = None) -> str:
    """Return the URL of a server on this socket."""
    host, port = sock.getsockname()[:2]
    scheme = "http" if certificate is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


@dataclass(frozen=True)
class Certificate:
    """A certificate with its chain, and its key, as files in PEM.

    Raises:
        UserError: a file is missing, or the two are no certificate and its key.
    """

    cert: Path
    key: Path

    def __post_init__(self) -> None:
        for option, file in (("--tls-cert", self.cert), ("--tls-key", self.key)):
            try:
                with open(file, "rb"):
                    pass
            except OSError as fault:
                raise UserError(f"{option} {file}: {fault.strerror}: name a file in PEM form") from None
        try:
            # Without a password the library would ask for one on the terminal.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.cert, self.key, password="")
        except (OSError, ValueError) as fault:
            line = "not a certificate and its key in PEM form, without a password"
            reason = getattr(fault, "reason", None) or type(fault).__name__
            raise UserError(f"--tls-cert {self.cert}, --tls-key {self.key}: {line} ({reason})") from None


class Server(uvicorn.Server):
    """Serves until SIGINT or SIGTERM and then answers the requests in flight.

    uvicorn raises the signal again when it has stopped; this server does not, so that the process ends with 0.

    Args:
        app: the application, with its ``ServerMetrics`` as ``app.state.metrics``.
        limits: the time for a request to arrive, and the time to answer when the server stops.
        on_ready: called once the server answers.
        certificate: turns TLS on.
    """

    def __init__(
        self, app: Starlette, limits: Limits, on_ready: Callable[[], None], certificate: Certificate | None = None
    ) -> None:
        self.on_ready = on_ready
        config = uvicorn.Config(
            app,
            http=_make_protocol(limits, app.state.metrics),
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=limits.stop_seconds,
            ssl_certfile=None if certificate is None else certificate.cert,
            ssl_keyfile=None if certificate is None else certificate.key,
        )
        super().__init__(config)
        logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns about every broken form

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _make_protocol(limits: Limits, metrics: Any) -> type[H11Protocol]:
    class TimedProtocol(H11Protocol):
        """Closes a connection whose request does not arrive in time, and answers bytes that are no HTTP with JSON.

        uvicorn's own protocol waits for ever, and answers such bytes with plain text.
        """

        timed_state: Any = None  # the client's state that the timer was started for
        timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.restart_timer()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.restart_timer()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self.restart_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self.timer is not None:
                self.timer.cancel()

        def restart_timer(self) -> None:
            state = (self.conn.their_state, self.cycle)
            if state == self.timed_state:
                return
            self.timed_state = state
            if self.timer is not None:
                self.timer.cancel()
            seconds = {h11.IDLE: limits.header_seconds, h11.SEND_BODY: limits.body_seconds + SLACK_SECONDS}.get(
                state[0]
            )
            self.timer = None if seconds is None else self.loop.call_later(seconds, self.transport.close)

        def send_400_response(self, msg: str) -> None:
            metrics.requests.labels("other", 400).inc()
            if self.cycle is not None:
                self.cycle.disconnected = True  # the application's answer would go nowhere
                self.cycle.message_event.set()
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                data = json.dumps({"error": "not a valid HTTP/1.1 request: check its headers and lengths"}).encode()
                headers = [("content-type", "application/json"), ("content-length", str(len(data)))]
                answer = h11.Response(status_code=400, headers=[*headers, ("connection", "close")], reason=b"")
                for event in (answer, h11.Data(data=data), h11.EndOfMessage()):
                    self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

    return TimedProtocol
