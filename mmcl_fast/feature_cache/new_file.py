"""New files of the feature cache: complete and on the disk, or not there."""

from __future__ import annotations

import os
from pathlib import Path


def write_new_file(folder: Path, suffix: str, data: bytes | bytearray) -> Path:
    """Write ``data`` under a random name in ``folder`` and return the file's path. Raises OSError, and leaves nothing.

    Processes that write at the same time need no lock, because each file has its own name and never changes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{os.urandom(12).hex()}{suffix}"
    temporary = file.with_suffix(".part")
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)  # the file's name, too, must survive a power cut
    finally:
        os.close(handle)
    return file
