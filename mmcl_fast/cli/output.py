"""The command line's standard streams, whatever they are: ASCII, closed, a pipe that nobody reads, a full disk."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from typing import Any

from mmcl_fast.errors import UserError


class OutputError(UserError):
    """What a command answers can't be written to standard output."""


class PipeClosed(Exception):
    """Nobody reads standard output any more, as with ``| head``."""


class _StandardOutput(io.FileIO):
    """Standard output, whose faults are told from those of other files."""

    closed_from_the_start = False

    def write(self, data: Any) -> int:
        if self.closed_from_the_start:
            self.closed_from_the_start = False  # once: the rest of the buffer has nowhere to go
            raise OutputError("standard output is closed: give the command a place for its answer")
        try:
            return super().write(data)
        except OSError as fault:
            # What is still buffered would fail once more when the interpreter ends, with a traceback.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if fault.errno == errno.EPIPE:
                raise PipeClosed from None
            raise OutputError(
                f"standard output can't be written ({fault.strerror}): make room there, or send it to another file"
            ) from None


class _StandardError(io.FileIO):
    """Standard error: progress and messages. That nobody can read them stops no work."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def prepare() -> None:
    """Make the process's standard streams safe to use; call it once, before anything is printed.

    Letters that an encoding lacks are escaped. A closed stream is opened on the null device: its number would else
    go to the next file that is opened, and what libraries print would land in that file.
    """
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, mode), number)  # the lowest free number, perhaps this one
            os.set_inheritable(number, True)  # as a standard stream is: else a file of a child would take its place
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)
    if _is_number(sys.stdout, 1):
        output = _StandardOutput(1, "w", closefd=False)
        output.closed_from_the_start = sys.stdout is None
        sys.stdout = _wrapped(output, sys.stdout)
    if _is_number(sys.stderr, 2):
        sys.stderr = _wrapped(_StandardError(2, "w", closefd=False), sys.stderr, at_once=True)


def _is_number(stream: Any, number: int) -> bool:
    """Whether a stream is the process's own, and not what a program that calls ``main`` put in its place."""
    try:
        return stream is None or stream.fileno() == number
    except (AttributeError, OSError, ValueError):
        return False


def _wrapped(raw: io.FileIO, old: Any, at_once: bool = False) -> io.TextIOWrapper:
    if old is not None:
        old.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(old, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=at_once or raw.isatty(),
        write_through=at_once,
    )


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON that standard output can hold: letters that its encoding lacks are escaped as JSON escapes them."""
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower()
    return json.dumps(value, indent=indent, ensure_ascii=not encoding.startswith("utf"))
