"""Plain JPEG files by libjpeg-turbo in one call. Pillow, which uses the same decoder, reads all others."""

from __future__ import annotations

import struct
import threading
from functools import cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

START = b"\xff\xd8\xff"
FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive, Huffman coded
BUFFER_LIMIT = 1 << 24  # bytes of the largest buffer that a thread keeps

_buffers = threading.local()


@cache
def _simplejpeg() -> ModuleType | None:
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg


def find_plain_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of a plain JPEG: upright, 8 bits, grey or YCbCr. None for any other file."""
    at, jfif = 2, False
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker, size = struct.unpack_from(">BH", data, at + 1)
        if marker == 0xE0:
            jfif = True
        elif marker in (0xE1, 0xE2, 0xEE) and not data.startswith(b"ICC_PROFILE", at + 4):
            return None  # EXIF and XMP may turn it, MPF holds several images, Adobe's marker means other colours
        elif marker in FRAMES:
            bits, height, width, components = struct.unpack_from(">BHHB", data, at + 4)
            plain = jfif and bits == 8 and components in (1, 3) and height and width
            return (width, height) if plain else None
        elif not (marker in (0xC4, 0xDB, 0xDD, 0xFE) or 0xE0 <= marker <= 0xEF):
            return None
        at += size + 2
    return None


def find_bit_depth(data: bytes) -> int | None:
    """Return the bits of a sample, as the frame header states them; None for a file without a frame header."""
    at = 2
    while at + 5 <= len(data) and data.startswith(b"\xff\xd8") and data[at] == 0xFF:
        marker, size = struct.unpack_from(">BH", data, at + 1)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return data[at + 4]
        at += size + 2
    return None


def decode_plain(data: bytes, width: int, height: int) -> Tensor | None:
    """Decode to uint8 ``[3, height, width]`` with interleaved pixels. The thread's next call overwrites the result.

    None if libjpeg-turbo warns: Pillow then decodes the file or says what is wrong.
    """
    library, count = _simplejpeg(), 3 * width * height
    if library is None:
        return None
    buffer = getattr(_buffers, "pixels", None)  # fresh pages for each file would cost as much as decoding it
    if buffer is None or len(buffer) < count:
        buffer = np.empty(count, np.uint8)
        if count <= BUFFER_LIMIT:
            _buffers.pixels = buffer
    try:
        image = library.decode_jpeg(data, fastdct=False, fastupsample=False, buffer=buffer)
    except ValueError:
        return None
    return torch.from_numpy(image).permute(2, 0, 1) if image.shape == (height, width, 3) else None
