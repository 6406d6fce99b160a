"""Messages between processes: a length and that many bytes, sent together with open file descriptors.

Requests are written by ``marshal``, which is fast. Answers are JSON, because a hostile file may control a worker and
``marshal`` is not safe for data from an attacker.
"""

from __future__ import annotations

import array
import json
import marshal
import os
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

LENGTH = struct.Struct("!I")
MAX_MESSAGE = 1 << 20  # bytes; a worker that sends more is out of control
MAX_DESCRIPTORS = 64
SEND_TIMEOUT = 60.0  # seconds in which the other side must receive a message


class ConnectionEnded(Exception):
    """The other side is gone, or sends something that is no message."""


def send(sock: socket.socket, body: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send a message. Raises ConnectionEnded if the other side does not receive it."""
    data = LENGTH.pack(len(body)) + body
    sock.settimeout(SEND_TIMEOUT)
    try:
        sent = socket.send_fds(sock, [data], descriptors) if descriptors else sock.send(data)
        if sent < len(data):
            sock.sendall(data[sent:])
    except (ConnectionError, TimeoutError) as fault:
        raise ConnectionEnded(str(fault)) from fault


def send_request(sock: socket.socket, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Send a request to a side that trusts this one."""
    send(sock, marshal.dumps(message), descriptors)


def send_answer(sock: socket.socket, message: dict[str, Any]) -> None:
    """Send an answer to a side that does not trust this one."""
    send(sock, json.dumps(message).encode())


def receive_request(sock: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return the next request and its descriptors; the caller closes them. Raises ConnectionEnded."""
    body, descriptors = receive(sock)
    return marshal.loads(body), descriptors


def receive_answer(sock: socket.socket, seconds: float) -> dict[str, Any]:
    """Return the next answer. Raises ConnectionEnded, or TimeoutError if none comes within ``seconds``."""
    body, descriptors = receive(sock, time.monotonic() + seconds)
    close_descriptors(descriptors)
    try:
        message = json.loads(body.decode())
    except (ValueError, RecursionError) as fault:
        raise ConnectionEnded("it sent something that is no message") from fault
    if not isinstance(message, dict):
        raise ConnectionEnded("it sent something that is no message")
    return message


def receive(sock: socket.socket, until: float | None = None) -> tuple[bytes, list[int]]:
    """Return the next message and its descriptors; the caller closes them.

    Args:
        sock: to receive from.
        until: time of ``time.monotonic`` at which to stop; None: wait for ever.

    Raises:
        ConnectionEnded: the other side is gone, or the message is invalid.
        TimeoutError: no complete message came in time.
    """
    data, found = bytearray(), array.array("i")
    wanted = LENGTH.size
    try:
        while len(data) < wanted:
            # A timeout of 0 would make the socket non-blocking.
            sock.settimeout(None if until is None else max(0.001, until - time.monotonic()))
            part, extra, _, _ = sock.recvmsg(
                min(wanted - len(data), 1 << 16) if data else 1 << 16, socket.CMSG_LEN(MAX_DESCRIPTORS * found.itemsize)
            )
            for level, kind, content in extra:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    found.frombytes(content[: len(content) - len(content) % found.itemsize])
            if not part:
                raise ConnectionEnded("the other side is gone")
            data += part
            if len(data) >= LENGTH.size:
                wanted = LENGTH.size + LENGTH.unpack_from(data)[0]
                if wanted > MAX_MESSAGE or len(data) > wanted:
                    raise ConnectionEnded("it sent something that is no message")
        return bytes(data[LENGTH.size :]), list(found)
    except ConnectionError as fault:
        close_descriptors(found)
        raise ConnectionEnded(str(fault)) from fault
    except BaseException:
        close_descriptors(found)
        raise


def close_descriptors(descriptors: Sequence[int] | array.array[int]) -> None:
    """Close file descriptors."""
    for descriptor in descriptors:
        os.close(descriptor)
