"""Messages between processes: a length, then bytes, with open descriptors beside it.

A request is written by ``marshal``, which is fast. An answer is JSON: what a worker says may be an attacker's words.
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
LONGEST = 1 << 20  # bytes of a message; a worker that says more is not one of ours any more
MOST_DESCRIPTORS = 64
SECONDS = 60.0  # in which the other side has to take a message


class Ended(Exception):
    """The other side is gone, or says what is no message."""


def send(sock: socket.socket, body: bytes, descriptors: Sequence[int] = ()) -> None:
    """Raises Ended where nobody reads."""
    data = LENGTH.pack(len(body)) + body
    sock.settimeout(SECONDS)
    try:
        sent = socket.send_fds(sock, [data], descriptors) if descriptors else sock.send(data)
        if sent < len(data):
            sock.sendall(data[sent:])
    except (ConnectionError, TimeoutError) as fault:
        raise Ended(str(fault)) from fault


def request(sock: socket.socket, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Ask the other side, which trusts this one."""
    send(sock, marshal.dumps(message), descriptors)


def answer(sock: socket.socket, message: dict[str, Any]) -> None:
    """Answer the other side, which does not trust this one."""
    send(sock, json.dumps(message).encode())


def requested(sock: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The next request, and its descriptors, which are the caller's to close. Raises Ended."""
    body, descriptors = receive(sock)
    return marshal.loads(body), descriptors


def answered(sock: socket.socket, seconds: float) -> dict[str, Any]:
    """The next answer. Raises Ended, and TimeoutError where none came in time."""
    body, descriptors = receive(sock, time.monotonic() + seconds)
    close(descriptors)
    try:
        message = json.loads(body.decode())
    except (ValueError, RecursionError) as fault:
        raise Ended("what came is no message") from fault
    if not isinstance(message, dict):
        raise Ended("what came is no message")
    return message


def receive(sock: socket.socket, until: float | None = None) -> tuple[bytes, list[int]]:
    """The next message and its descriptors, which are the caller's to close.

    Args:
        until: on the clock of ``time.monotonic``; None waits for ever.

    Raises:
        Ended: see there.
        TimeoutError: no whole message came in time.
    """
    data, found = bytearray(), array.array("i")
    wanted = LENGTH.size
    try:
        while len(data) < wanted:
            sock.settimeout(None if until is None else max(0.001, until - time.monotonic()))
            part, extra, _, _ = sock.recvmsg(
                min(wanted - len(data), 1 << 16) if data else 1 << 16,
                socket.CMSG_LEN(MOST_DESCRIPTORS * found.itemsize),
            )
            for level, kind, content in extra:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    found.frombytes(content[: len(content) - len(content) % found.itemsize])
            if not part:
                raise Ended("the other side is gone")
            data += part
            if len(data) >= LENGTH.size:
                wanted = LENGTH.size + LENGTH.unpack_from(data)[0]
                if wanted > LONGEST or len(data) > wanted:
                    raise Ended("what came is no message")
        return bytes(data[LENGTH.size :]), list(found)
    except ConnectionError as fault:
        close(found)
        raise Ended(str(fault)) from fault
    except BaseException:
        close(found)
        raise


def close(descriptors: Sequence[int] | array.array[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
