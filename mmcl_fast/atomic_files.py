"""Files of a run: whole or not there, on the disk and not only in its cache, written by one process at a time."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmcl_fast.errors import RunError

LOCK = ".lock"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """An OSError inside becomes a RunError that names ``path`` and what to do."""
    try:
        yield
    except OSError as fault:
        full = fault.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = (
            "make room and go on with --resume; what was saved before is as it was"
            if full
            else "make it writable or give another folder"
        )
        raise RunError(f"{path}: can't be written ({fault.strerror or fault}); {advice}") from None


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def put(file: Path, data: bytes) -> None:
    """Write a new file and wait for the disk."""
    with open(file, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def replace(file: Path, data: bytes) -> None:
    """Write a file under a temporary name and rename it: readers find the old or the new one, also after a power cut.

    Raises:
        RunError: it can't be written; the old one is as it was.
    """
    temporary = file.with_name(f"{file.name}.part")
    with writing(file):
        try:
            put(temporary, data)
            os.replace(temporary, file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync(file.parent)


def write_json(file: Path, value: Any) -> None:
    replace(file, json.dumps(value, indent=1, ensure_ascii=False).encode())


def make_folder(folder: Path) -> None:
    """``mkdir -p`` whose names outlive a power cut."""
    with writing(folder):
        missing = [p for p in (folder, *folder.parents) if not p.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for made in missing:
            sync(made.parent)


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold a run folder, made where it is missing. The lock goes with the process, however that ends, and with those
    that inherit the open file that this gives.

    Raises:
        RunError: another process holds it, or the folder can't be written.
    """
    make_folder(folder)
    with writing(folder):
        handle = open(folder / LOCK, "a+")
    with handle:
        with writing(folder):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                holder = handle.read().strip() or "another process"
                raise RunError(f"{folder}: in use by {holder}; wait for it or stop it, or give another --out") from None
            handle.truncate(0)
            handle.write(f"process {os.getpid()} on {platform.node()}\n")
            handle.flush()
        yield handle.fileno()
