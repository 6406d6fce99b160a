"""PNG of 16 bits, where Pillow keeps only 8, and the chunks of any PNG.

The format: https://www.w3.org/TR/png-3/
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

ORIENTATION = b"orientation"
TEXTS = (b"tEXt", b"zTXt", b"iTXt")


def decode_16_bits(data: bytes) -> np.ndarray:
    """Decode a PNG of 16 bits to uint16 ``[H, W, S]``: grey, grey and alpha, RGB or RGBA; tRNS becomes alpha.

    Raises:
        ValueError: the PNG has other samples.
        av.FFmpegError: the PNG is damaged.
    """
    import av

    # Only the chunks that make the pixels: FFmpeg refuses an image because of a broken eXIf.
    pixels = (b"IHDR", b"tRNS", b"IDAT", b"IEND")
    needed = [data[start:end] for name, start, end in _chunks(data) if name in pixels]
    decoder = av.CodecContext.create("png", "r")
    decoder.thread_count, decoder.options = 1, {"err_detect": "crccheck+explode"}
    (frame,) = [*decoder.decode(av.Packet(data[:8] + b"".join(needed))), *decoder.decode(None)]
    samples = {"gray16be": 1, "ya16be": 2, "rgb48be": 3, "rgba64be": 4}.get(frame.format.name)
    if samples is None:
        raise ValueError(f"a PNG of 16 bits that is decoded as {frame.format.name}")
    # Not by to_ndarray(format=...): FFmpeg's conversion mixes the rows of interlaced images.
    plane = np.frombuffer(memoryview(frame.planes[0]), ">u2").reshape(frame.height, -1)
    return plane[:, : frame.width * samples].reshape(frame.height, frame.width, samples).astype(np.uint16)


def chunk_names(data: bytes) -> set[bytes]:
    """Return the names of a PNG's chunks, and ORIENTATION if a chunk before or behind the pixels may state it."""
    found = set()
    for name, start, _ in _chunks(data):
        found.add(name)
        if name == b"eXIf" or (name in TEXTS and data.startswith((b"Raw profile", b"XML:com.adobe"), start + 8)):
            found.add(ORIENTATION)
    return found


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name of each chunk and the offsets of its first byte and behind its checksum."""
    at = 8
    while at + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        yield name, at, at + size + 12
        at += size + 12
