"""Files that a parent opened for a worker, which has no right to open any."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
import tempfile
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from mmcl_fast.media.source import READ_AT_ONCE, Slice, Source, read_bytes, size_of

HEAD = 64  # bytes before the planes in memory that is shared; the first holds the number of the job under way


@dataclass(frozen=True)
class Opened(Slice):
    """A file, or a slice of one, behind a descriptor.

    Attributes:
        descriptor: of the file that holds it.
        whole: it is all of the file ``path``, and messages call it so.
        fault: the number, the words and the file name of the error that opening met; reading raises it again.
    """

    descriptor: int = -1
    whole: bool = False
    fault: tuple[Any, ...] | None = None

    def __str__(self) -> str:
        return self.path if self.whole else super().__str__()

    def open_raw(self) -> io.RawIOBase:
        if self.fault is not None:
            raise OSError(*self.fault)
        return _Descriptor(self.descriptor, self.path)

    def open_buffered(self) -> BinaryIO:
        if not self.whole:
            return super().open_buffered()
        if self.size <= READ_AT_ONCE and self.fault is None:
            data = _Named(read_bytes(self))
            data.name = _address(self.path)
            return data
        return io.BufferedReader(self.open_raw(), 1 << 18)


class _Named(io.BytesIO):
    """A file in memory. ``name``: see ``_address``."""

    name: str


def _address(path: str) -> str:
    """What PyAV would call the file if it opened it itself, because the ending counts for raw streams."""
    return "file:" + os.path.abspath(path)


class _Descriptor(io.RawIOBase):
    """A descriptor read with a place of its own, so that one file may be open twice. It is not closed.

    ``name``: see ``_address``.
    """

    def __init__(self, descriptor: int, path: str) -> None:
        self.descriptor, self.place, self.name = descriptor, 0, _address(path)

    def fileno(self) -> int:
        return self.descriptor

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = (0, self.place, os.fstat(self.descriptor).st_size if whence == os.SEEK_END else 0)[whence]
        if start + offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self.place = start + offset
        return self.place

    def readinto(self, buffer: Any) -> int:
        count = os.preadv(self.descriptor, [buffer], self.place)
        self.place += count
        return count


def describe(source: Source) -> tuple[dict[str, Any], int]:
    """What ``restore`` makes the source from in another process, and a descriptor that goes with it (-1: none).

    Never raises for a file that can't be opened: the other process raises what opening it would have raised.
    """
    if isinstance(source, bytes):
        return {"bytes": len(source)}, _in_memory(source)
    if isinstance(source, Slice):
        told: dict[str, Any] = {
            "path": source.path,
            "offset": source.offset,
            "size": source.size,
            "name": source.name,
            "planes": source.planes,
        }
        path = source.path
    else:
        path = str(source)
        told = {"path": path, "whole": True}
    descriptor = -1
    try:
        if "whole" in told:
            size_of(source)  # refuses what is no regular file, which opening might wait for
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise IsADirectoryError(errno.EISDIR, "not a regular file", path)
        return {"size": status.st_size, **told}, descriptor
    except OSError as fault:
        return {"size": 1, **told, "fault": [fault.errno, fault.strerror, fault.filename]}, -1


def restore(told: dict[str, Any], descriptor: int) -> Source:
    """The source that ``describe`` told of."""
    if "bytes" in told:
        data = bytearray(told["bytes"])
        with io.BufferedReader(cast(io.RawIOBase, _Descriptor(descriptor, ""))) as file:
            file.readinto(data)
        return bytes(data)
    return Opened(
        told["path"],
        told.get("offset", 0),
        told["size"],
        told.get("name", ""),
        tuple(told["planes"]) if told.get("planes") else None,
        descriptor,
        told.get("whole", False),
        tuple(told["fault"]) if "fault" in told else None,
    )


def shared(size: int) -> int:
    """A descriptor of ``size`` bytes of memory that two processes can map. The other one can't make it shorter."""
    if sys.platform != "linux":
        with tempfile.TemporaryFile() as file:
            file.truncate(size)
            return os.dup(file.fileno())
    import fcntl

    descriptor = os.memfd_create("mmcl-fast", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor


def _in_memory(data: bytes) -> int:
    if sys.platform != "linux":
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.flush()
            return os.dup(file.fileno())
    descriptor = os.memfd_create("mmcl-fast", os.MFD_CLOEXEC)
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
    return descriptor
