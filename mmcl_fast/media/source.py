"""Sources of one item: a file, its bytes, or a byte range of another file. Each has a name for messages."""

from __future__ import annotations

import errno
import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeGuard, Union

from mmcl_fast.errors import MediaError
from mmcl_fast.media import formats
from mmcl_fast.media.formats import DEMUXERS
from mmcl_fast.media.spec import VisualSpec

if TYPE_CHECKING:
    from av.container import InputContainer


@dataclass(frozen=True)
class Slice:
    """A byte range of a file, such as a member of a tar archive.

    Attributes:
        path: the file.
        offset: of the first byte.
        size: number of bytes.
        name: of the member, for messages.
        planes: height and width of an image that the bytes hold as red, green and blue plane; the image is read as a
            PPM file. None: the bytes are a file in themselves.
    """

    path: str
    offset: int
    size: int
    name: str
    planes: tuple[int, int] | None = None

    def __str__(self) -> str:
        return f"{self.path}/{self.name}"

    def open_raw(self) -> io.RawIOBase:
        """Open the file that contains the slice, without a buffer."""
        return open(self.path, "rb", buffering=0)

    def open_buffered(self) -> BinaryIO:
        """Open the bytes of the slice as a seekable file."""
        if self.size <= READ_AT_ONCE:
            return io.BytesIO(_read_slice(self, self.size))
        return io.BufferedReader(_SliceReader(self), 1 << 18)


Source = Union[str, Path, bytes, Slice]

READ_AT_ONCE = 1 << 24  # bytes; a longer slice is read piece by piece


def name_of(source: Source) -> str:
    """Return the name of a source for messages: printable and on one line, whatever the file system allows."""
    if isinstance(source, bytes):
        return f"<{len(source)} bytes>"
    name = str(source)
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)


def is_file(source: Source) -> TypeGuard[str | Path]:
    """Return whether the source is a whole file, which a library may open by its path."""
    return isinstance(source, (str, Path))


def size_of(source: Source) -> int:
    """Return the number of bytes. Raises OSError if there is no such file, or if it is a pipe or a device."""
    if isinstance(source, bytes):
        return len(source)
    return source.size if isinstance(source, Slice) else _require_regular_file(source).st_size


def _require_regular_file(path: str | Path) -> os.stat_result:
    """Return the status of a file. Raises OSError for a pipe or a device, because those may never end."""
    if "\0" in str(path):  # os.stat would raise ValueError
        raise FileNotFoundError(errno.ENOENT, "a name cannot hold a zero byte")
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "not a regular file", str(path))
    return status


def open_binary(source: Source) -> BinaryIO:
    """Open a source as a new seekable file. Several threads may open the same source at once."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if not isinstance(source, Slice):
        _require_regular_file(source)
        return open(source, "rb")
    return source.open_buffered()


def read_bytes(source: Source) -> bytes:
    """Return all bytes of a source."""
    if isinstance(source, Slice):
        return _read_slice(source, source.size)
    with open_binary(source) as file:
        return file.read()


def head(source: Source, size: int) -> bytes:
    """Return the first ``size`` bytes, or all where there are fewer."""
    if isinstance(source, Slice):
        return _read_slice(source, min(size, source.size))[:size]
    with open_binary(source) as file:
        return file.read(size)


def _read_slice(source: Slice, size: int) -> bytes:
    """Return the first ``size`` bytes of a slice; of planes always a whole PPM file."""
    if source.planes:
        size = source.size
    with io.BufferedReader(source.open_raw()) as file:
        file.seek(source.offset)
        data = file.read(size)
    if len(data) < size:
        raise _cut_short(source)
    if source.planes:
        import numpy as np

        height, width = source.planes
        pixels = np.frombuffer(data, np.uint8).reshape(3, height, width).transpose(1, 2, 0)
        return b"P6 %d %d 255\n" % (width, height) + pixels.tobytes()
    return data


def _cut_short(source: Slice) -> MediaError:
    return MediaError(f"{source.path} ends inside it: copy that file again")


class RawReader(io.RawIOBase):
    """A file of ``size`` bytes whose bytes come from another open file. A subclass gives ``readinto``."""

    def __init__(self, file: Any, size: int):
        self.file, self.size, self.place = file, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.place = max(0, offset + (0, self.place, self.size)[whence])
        return self.place

    def close(self) -> None:
        self.file.close()
        super().close()


class _SliceReader(RawReader):
    """A slice as a file."""

    def __init__(self, source: Slice):
        super().__init__(source.open_raw(), source.size)
        self.start = source.offset
        if os.fstat(self.file.fileno()).st_size < source.offset + source.size:
            raise _cut_short(source)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: max(0, self.size - self.place)]
        self.file.seek(self.start + self.place)
        count = self.file.readinto(view) or 0
        self.place += count
        return count


def open_av(source: Source) -> InputContainer:
    """Open a source as a PyAV container. A name with a colon is the name of a file, not a protocol.

    Raises:
        MediaError: the format is known and not supported. HEIC is one: FFmpeg would show a part of it as a video.
    """
    row = formats.recognise(head(source, formats.HEAD))
    if row is not None and not row.library:
        raise MediaError(row.refusal)
    return open_container(source)


def open_container(source: Source, **options: str) -> InputContainer:
    """Open a source as a PyAV container without a check of its first bytes.

    Args:
        source: the file.
        **options: of FFmpeg's demuxers.
    """
    import av

    opened = None if is_file(source) else open_binary(source)
    target = "file:" + os.path.abspath(source) if is_file(source) else opened
    options |= {"protocol_whitelist": "file", "format_whitelist": DEMUXERS}
    try:
        return av.open(target, "r", options=options, metadata_errors="replace")  # tags may be in any charset
    except Exception as error:
        if opened is not None:  # the traceback refers to the file, so it would stay open
            opened.close()
        if isinstance(error, av.ArgumentError):  # a demuxer that is not on the list
            raise MediaError("neither video nor audio of a supported format") from None
        raise


def limit_seconds(seconds: float, spec: VisualSpec) -> None:
    """Raise MediaError for a recording or video that is longer than ``spec.max_seconds``."""
    if seconds > spec.max_seconds:
        raise MediaError(f"lasts {seconds:.0f} s, the limit is {spec.max_seconds:g} s: cut it or raise max_seconds")
