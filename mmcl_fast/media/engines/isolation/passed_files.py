"""Files that the parent opens and passes to a worker, because a worker has no right to open files."""

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

SHARED_HEADER = 64  # bytes of shared memory before the planes; the first holds the number of the current job


@dataclass(frozen=True)
class PassedFile(Slice):
    """A file, or a slice of one, that is read through a descriptor.

    Attributes:
        descriptor: of the file.
        is_whole_file: whether it is all of the file ``path``, not a slice.
        fault: number, message and file name of the OSError that opening the file raised. Reading raises it again.
    """

    descriptor: int = -1
    is_whole_file: bool = False
    fault: tuple[Any, ...] | None = None

    def __str__(self) -> str:
        return self.path if self.is_whole_file else super().__str__()

    def open_raw(self) -> io.RawIOBase:
        if self.fault is not None:
            raise OSError(*self.fault)
        return _DescriptorReader(self.descriptor, self.path)

    def open_buffered(self) -> BinaryIO:
        if not self.is_whole_file:
            return super().open_buffered()
        if self.size <= READ_AT_ONCE and self.fault is None:
            data = _NamedBytes(read_bytes(self))
            data.name = _pyav_name(self.path)
            return data
        return io.BufferedReader(self.open_raw(), 1 << 18)


class _NamedBytes(io.BytesIO):
    """A file in memory with the name that PyAV expects, see ``_pyav_name``."""

    name: str


def _pyav_name(path: str) -> str:
    """Return the name under which PyAV would open the file, because for raw streams its ending counts."""
    return "file:" + os.path.abspath(path)


class _DescriptorReader(io.RawIOBase):
    """A file that reads a descriptor at its own position, so that one descriptor serves several readers.

    Closing it does not close the descriptor. ``name``: see ``_pyav_name``.
    """

    def __init__(self, descriptor: int, path: str) -> None:
        self.descriptor, self.place, self.name = descriptor, 0, _pyav_name(path)

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


def pack_source(source: Source) -> tuple[dict[str, Any], int]:
    """Return the data from which ``unpack_source`` makes the source in another process, and a descriptor (-1: none).

    It never raises for a file that cannot be opened. The other process then raises the same error.
    """
    if isinstance(source, bytes):
        return {"bytes": len(source)}, _make_memory_file(source)
    if isinstance(source, Slice):
        packed: dict[str, Any] = {
            "path": source.path,
            "offset": source.offset,
            "size": source.size,
            "name": source.name,
            "planes": source.planes,
        }
        path = source.path
    else:
        path = str(source)
        packed = {"path": path, "is_whole_file": True}
    descriptor = -1
    try:
        if "is_whole_file" in packed:
            size_of(source)  # refuses a pipe or device, where opening might block
        # O_NONBLOCK: the file may have become a pipe, and opening it would block.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise IsADirectoryError(errno.EISDIR, "not a regular file", path)
        return {"size": status.st_size, **packed}, descriptor
    except OSError as fault:
        return {"size": 1, **packed, "fault": [fault.errno, fault.strerror, fault.filename]}, -1


def unpack_source(packed: dict[str, Any], descriptor: int) -> Source:
    """Return the source that ``pack_source`` described."""
    if "bytes" in packed:
        data = bytearray(packed["bytes"])
        with io.BufferedReader(cast(io.RawIOBase, _DescriptorReader(descriptor, ""))) as file:
            file.readinto(data)
        return bytes(data)
    return PassedFile(
        packed["path"],
        packed.get("offset", 0),
        packed["size"],
        packed.get("name", ""),
        tuple(packed["planes"]) if packed.get("planes") else None,
        descriptor,
        packed.get("is_whole_file", False),
        tuple(packed["fault"]) if "fault" in packed else None,
    )


def make_shared_memory(size: int) -> int:
    """Return a descriptor of ``size`` bytes of memory for two processes. On Linux neither can change its size."""
    if sys.platform != "linux":
        with tempfile.TemporaryFile() as file:
            file.truncate(size)
            return os.dup(file.fileno())
    import fcntl

    descriptor = os.memfd_create("mmcl-fast", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor


def _make_memory_file(data: bytes) -> int:
    """Return a descriptor of a file in memory with these bytes."""
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
