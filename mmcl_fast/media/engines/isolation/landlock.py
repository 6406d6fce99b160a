"""Landlock: a Linux process gives up opening files outside some folders, and reaching the network."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same numbers on every processor
READ_FILE, READ_DIR = 1 << 2, 1 << 3
# Number of rights on files by Landlock's version: 13 at first, then linking, truncating and device controls.
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
BIND_AND_CONNECT = 3  # rights on TCP, from version 4 on
SOCKETS_AND_SIGNALS = 3  # rights on other processes, from version 6 on


class _Ruleset(ctypes.Structure):
    _fields_ = [("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scope", ctypes.c_uint64)]


class _PathRule(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = [("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32)]


def version() -> int:
    """Return the kernel's Landlock version; 0 where it has none or it is turned off."""
    if sys.platform != "linux":
        return 0
    return max(0, _call(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1)))


def restrict(readable: Iterable[str]) -> int:
    """Forbid this thread, and the threads that it starts, to open files; files that are open already stay usable.

    Args:
        readable: files and folders that may still be opened for reading. A missing one is ignored.

    Returns:
        Landlock's version; 0: there is none, and nothing is forbidden.

    Raises:
        OSError: the kernel refuses the rules.
    """
    known = version()
    if not known:
        return 0
    rules = _Ruleset((1 << FILE_RIGHTS[min(known, 5)]) - 1, BIND_AND_CONNECT, SOCKETS_AND_SIGNALS)
    size = 24 if known >= 6 else 16 if known >= 4 else 8
    ruleset = _call(CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), ctypes.c_uint32(0))
    _check(ruleset, "landlock_create_ruleset")
    try:
        for path in readable:
            _allow(ruleset, path)
        _check(_call(RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0)), "landlock_restrict_self")
    finally:
        os.close(ruleset)
    return known


def _allow(ruleset: int, path: str) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rule = _PathRule(READ_FILE | READ_DIR * os.path.isdir(path), place)
        _check(
            _call(ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(1), ctypes.byref(rule), ctypes.c_uint32(0)),
            "landlock_add_rule",
        )
    finally:
        os.close(place)


def _call(number: int, *arguments: object) -> int:
    return ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), *arguments)


def _check(result: int, what: str) -> None:
    if result < 0:
        fault = ctypes.get_errno()
        raise OSError(fault, f"{what}: {os.strerror(fault)}")
