"""Standard streams that are safe to use when they are ASCII, closed, an abandoned pipe, or on a full disk."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from typing import Any

from mmcl_fast.errors import UserError


class OutputError(UserError):
    """The answer of a command cannot be written to standard output."""


class PipeClosed(Exception):
    """The reader of standard output is gone, as after ``| head``."""


class _StandardOutput(io.FileIO):
    """Standard output, whose errors differ from the errors of other files."""

    closed_from_the_start = False

    def write(self, data: Any) -> int:
        if self.closed_from_the_start:
            self.closed_from_the_start = False  # raise once; the rest of the buffer goes to the null device
            raise OutputError("standard output is closed: give the command a place for its answer")
        try:
            return super().write(data)
        except OSError as fault:
            # The rest of the buffer would fail again when the interpreter ends, with a traceback.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if fault.errno == errno.EPIPE:
                raise PipeClosed from None
            raise OutputError(
                f"standard output can't be written ({fault.strerror}): make room there, or send it to another file"
            ) from None


class _StandardError(io.FileIO):
    """Standard error: progress and messages. Work goes on where they cannot be written."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def prepare() -> None:
    """Make the process's standard streams safe to use; call it once, before anything is printed.

    Letters that an encoding lacks are escaped. A closed stream is opened on the null device. Otherwise the next file
    that is opened would get its number, and libraries would print into that file.
    """
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, mode), number)  # the lowest free number, perhaps this one
            os.set_inheritable(number, True)  # otherwise a file of a child process would get the number
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)
    if _has_descriptor(sys.stdout, 1):
        output = _StandardOutput(1, "w", closefd=False)
        output.closed_from_the_start = sys.stdout is None
        sys.stdout = _wrap(output, sys.stdout)
    if _has_descriptor(sys.stderr, 2):
        sys.stderr = _wrap(_StandardError(2, "w", closefd=False), sys.stderr, unbuffered=True)


def _has_descriptor(stream: Any, number: int) -> bool:
    """Return whether a stream is the process's own; a program that calls ``main`` may have replaced it."""
    try:
        return stream is None or stream.fileno() == number
    except (AttributeError, OSError, ValueError):
        return False


def _wrap(raw: io.FileIO, old: Any, unbuffered: bool = False) -> io.TextIOWrapper:
    """Return a text stream over ``raw`` with the encoding of the stream that it replaces."""
    if old is not None:
        old.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(old, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=unbuffered or raw.isatty(),
        write_through=unbuffered,
    )


def to_json(value: Any, indent: int | None = None) -> str:
    """Return JSON that standard output can encode; letters that its encoding lacks are escaped as in JSON."""
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower()
    return json.dumps(value, indent=indent, ensure_ascii=not encoding.startswith("utf"))
