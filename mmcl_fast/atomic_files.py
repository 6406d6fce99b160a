"""A run's files: each is whole or absent, on the disk and not only in the cache, and locked to one process."""

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

LOCK = ".lock"  # the file of a run folder that its process holds locked


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Inside, an OSError becomes a RunError that names ``path`` and what to do."""
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


def sync_path(path: Path) -> None:
    """Wait until a file's bytes, or a folder's list of names, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_file(file: Path, data: bytes) -> None:
    """Write a new file and wait until its bytes are on the disk."""
    with open(file, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def replace_file(file: Path, data: bytes) -> None:
    """Write a file under a temporary name, then rename it.

    Readers find the old file or the new one, also after a power cut.

    Raises:
        RunError: the file cannot be written; the old one is as it was.
    """
    temporary = file.with_name(f"{file.name}.part")
    with explain_write_errors(file):
        try:
            write_file(temporary, data)
            os.replace(temporary, file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_path(file.parent)  # the rename itself must outlive a power cut


def write_json(file: Path, value: Any) -> None:
    """Write a value as indented UTF-8 JSON with ``replace_file``."""
    replace_file(file, json.dumps(value, indent=1, ensure_ascii=False).encode())


def make_folder(folder: Path) -> None:
    """Make a folder and its missing parents, whose names outlive a power cut.

    Raises:
        RunError: a folder cannot be made.
    """
    with explain_write_errors(folder):
        missing = [p for p in (folder, *folder.parents) if not p.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for made in missing:
            sync_path(made.parent)


@contextmanager
def lock_folder(folder: Path) -> Iterator[int]:
    """Make a folder where it is missing, and hold it locked inside.

    The lock ends with the process, however it ends. A process that inherits the file descriptor shares the lock.

    Yields:
        The file descriptor of the lock.

    Raises:
        RunError: another process holds the folder, or the folder cannot be written.
    """
    make_folder(folder)
    with explain_write_errors(folder):
        handle = open(folder / LOCK, "a+")
    with handle:
        with explain_write_errors(folder):
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


def read_json_object(file: Path, advice: str) -> dict[str, Any] | None:
    """Read a JSON object from a file of a run folder; None where there is no file.

    Raises:
        RunError: the file can't be read or holds something else; ``advice`` ends the message.
    """
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as fault:
        raise RunError(f"{file}: not readable as JSON ({fault}); {advice}") from None
    if not isinstance(values, dict):
        raise RunError(f"{file}: not a JSON object; {advice}")
    return values
