"""A modality whose reader does what the file says, for tests of isolation with ``--use``.

A file of ``planted`` holds a word, and a number behind it if needed. A file of digits alone is an image of that
grey.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mmcl_fast import media

OPENED = os.path.abspath(__file__)


def read(file: BinaryIO) -> np.ndarray:
    word, _, rest = file.read().decode().partition(" ")
    if word.isdigit():
        return np.full((8, 8), int(word) / 1000, np.float32)
    if word == "abort":
        os.abort()
    if word == "crash":
        ctypes.string_at(0)
    if word == "exit":
        os._exit(int(rest))
    if word == "spin":
        while True:
            pass
    if word == "sleep":
        time.sleep(float(rest or 1000))
    if word == "eat":
        held = []
        while True:
            held.append(np.ones(1_000_000))
    if word == "bomb":
        while True:
            os.fork()
    if word == "cpu":  # so many seconds of work, and an answer
        until = time.process_time() + float(rest)
        while time.process_time() < until:
            pass
    return np.full((8, 8), (DO[word](rest) if word in DO else 0) / 10, np.float32)


def _refused(work, *kinds: type[BaseException]) -> int:
    try:
        work()
    except kinds:
        return 1
    return 0


# 1: the system forbids it.
DO = {
    "open": lambda path: _refused(lambda: Path(path).read_bytes(), PermissionError),
    "write": lambda path: _refused(lambda: Path(path).write_bytes(b"x"), PermissionError),
    "remove": lambda path: _refused(lambda: os.unlink(path), PermissionError),
    "mode": lambda path: _refused(lambda: os.chmod(path, 0), PermissionError),
    "network": lambda port: _refused(lambda: socket.create_connection(("127.0.0.1", int(port)), 2), PermissionError),
    "program": lambda _: _refused(lambda: subprocess.run(["true"]), PermissionError, BlockingIOError),
    "fork": lambda _: _refused(os.fork, PermissionError),
    "signal": lambda process: _refused(lambda: os.kill(int(process), 0), PermissionError),
    "secret": lambda name: int(name not in os.environ),
    "core": lambda path: _refused(lambda: open(path, "rb"), FileNotFoundError),  # not there at all
}

media.register("planted", read)
