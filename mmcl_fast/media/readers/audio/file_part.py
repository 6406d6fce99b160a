"""A part of a file that is read as a file of its own, with a corrected header."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, BinaryIO

from mmcl_fast.media.source import RawReader, Slice, Source, name_of, open_binary

BUFFER = 1 << 18  # bytes


@dataclass(frozen=True)
class FilePart(Slice):
    """Bytes of a source behind a header of its own, made by ``make_part``.

    Attributes:
        source: the file or bytes that the part belongs to.
        start, end: offsets of its bytes there.
        header: bytes before them. Zeros follow behind them up to ``size``.
        samples: number per channel, where a decoder could not tell it.
    """

    source: Source = b""
    start: int = 0
    end: int = 0
    header: bytes = b""
    samples: int | None = None

    def open_raw(self) -> io.RawIOBase:
        """Open the part as a file without a buffer."""
        return _FilePartReader(self)

    def open_buffered(self) -> BinaryIO:
        """Open the part as a seekable file."""
        return io.BufferedReader(_FilePartReader(self), BUFFER)


def make_part(
    source: Source, start: int, end: int, header: bytes = b"", padding: int = 0, samples: int | None = None
) -> FilePart:
    """Return a part of a source: a header, the bytes from ``start`` to ``end``, and ``padding`` zero bytes.

    ``samples``: their number per channel, where a decoder could not tell it.
    """
    size = len(header) + end - start + padding
    return FilePart(name_of(source), 0, size, f"{start}-{end}", None, source, start, end, header, samples)


class _FilePartReader(RawReader):
    """A ``FilePart`` as a file. It holds only the part's header in memory."""

    def __init__(self, part: FilePart):
        super().__init__(open_binary(part.source), part.size)
        self.part, self.padding_start = part, len(part.header) + part.end - part.start

    def readinto(self, buffer: Any) -> int:
        view, header = memoryview(buffer).cast("B"), self.part.header
        if self.place < len(header):
            piece = header[self.place : self.place + len(view)]
            count = len(piece)
            view[:count] = piece
        elif self.place < self.padding_start:
            self.file.seek(self.part.start + self.place - len(header))
            count = self.file.readinto(view[: self.padding_start - self.place])
        else:
            count = max(0, min(len(view), self.part.size - self.place))
            view[:count] = bytes(count)
        self.place += count
        return count

    def close(self) -> None:
        self.file.close()
        super().close()
