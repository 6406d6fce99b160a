"""PNG files of any kind, written by tests from given numbers."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
# Adam7 (PNG specification, 8.2): first column and row, and the steps to the next ones.
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
Chunks = Sequence[tuple[bytes, bytes]]


def png(
    values: np.ndarray,
    *,
    bits: int = 16,
    colour: int | None = None,
    interlaced: bool = False,
    before: Chunks = (),
    after: Chunks = (),
) -> bytes:
    """Return a PNG of integers ``[H, W]`` or ``[H, W, S]``, with chunks (name, content) before and after the pixels."""
    values = values[..., None] if values.ndim == 2 else values
    height, width, samples = values.shape
    if colour is None:
        colour = {1: GREY, 2: GREY_ALPHA, 3: RGB, 4: RGBA}[samples]
    passes = PASSES if interlaced else ((0, 0, 1, 1),)
    rows = b"".join(_rows(values[y::dy, x::dx], bits) for x, y, dx, dy in passes)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, int(interlaced))
    chunks = [(b"IHDR", header), *before, (b"IDAT", zlib.compress(rows)), *after, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def exif(orientation: int) -> tuple[bytes, bytes]:
    """Return the chunk eXIf with an orientation."""
    return b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + struct.pack(">HH", orientation, 0) + bytes(4)


def _rows(values: np.ndarray, bits: int) -> bytes:
    """Return the rows, each behind its filter type 0."""
    if not values.size:
        return b""
    if bits == 16:
        rows = values.astype(">u2").view(np.uint8).reshape(len(values), -1)
    else:
        flags = (values.reshape(len(values), -1)[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        rows = np.packbits(flags.reshape(len(values), -1).astype(np.uint8), axis=1)
    return np.pad(rows, ((0, 0), (1, 0))).tobytes()
