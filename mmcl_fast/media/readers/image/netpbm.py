"""PBM, PGM, PPM, PAM and PFM as the numbers that they hold. The formats: https://netpbm.sourceforge.net/doc/

Not by Pillow: it rescales every sample to 255 or 65535, which changes the values of a depth map, and it knows no PAM.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from mmcl_fast.errors import MediaError

MARK = re.compile(rb"P[1-7Ff][\s#]")
MAX_HEADER = 1 << 16  # bytes; a file without an end of the header up to here is no netpbm image
COLOURS = {1: "GRAYSCALE", 2: "GRAYSCALE_ALPHA", 3: "RGB", 4: "RGB_ALPHA"}  # of PAM, by its depth


@dataclass(frozen=True)
class Header:
    """The header of the first image of a file.

    Attributes:
        kind: b"1" to b"7", b"f" or b"F": the second letter of the magic bytes.
        width, height: in pixels.
        channels: of a pixel; the last one is alpha where ``alpha`` is set.
        max_value: the value of white and the largest value allowed (maxval); 0 for floats.
        alpha: whether there is an alpha channel.
        one_is_black: whether 1 means black, as in PBM.
        big_endian: byte order of floats.
        end: length of the header in bytes.
    """

    kind: bytes
    width: int
    height: int
    channels: int
    max_value: int
    alpha: bool
    one_is_black: bool
    big_endian: bool
    end: int


def read_header(file: BinaryIO, max_pixels: int) -> Header | None:
    """Read the header at the start of a file. None: the file is of another format, such as text.

    Raises:
        MediaError: the image has more than ``max_pixels`` pixels.
    """
    file.seek(0)
    start = file.read(MAX_HEADER)
    if not MARK.match(start):
        return None
    header = _pam_header(start) if start.startswith(b"P7") else _pnm_header(start)
    if header is None:
        return None
    if header.width * header.height > max_pixels:
        raise MediaError(
            f"{header.width} x {header.height} pixels, the limit is {max_pixels}: make it smaller or raise max_pixels"
        )
    return header


def read_samples(file: BinaryIO, header: Header) -> np.ndarray:
    """Read the samples ``[H, W, channels]`` as they are stored: uint8, uint16 or float32, with the top row first.

    Raises:
        MediaError: the file holds fewer samples, or larger ones than the header allows.
    """
    shape, name = (header.height, header.width, header.channels), f"P{header.kind.decode()}"
    count = math.prod(shape)
    if header.kind in (b"1", b"2", b"3"):
        file.seek(header.end)
        values = _parse_digits(file.read(), header.kind == b"1", count)
        values = values[:count].astype(np.uint16 if header.max_value > 255 else np.uint8)
    elif header.kind == b"4":
        row = -(-header.width // 8)
        packed = np.frombuffer(_read_raw(file, header, row * header.height), np.uint8)
        if len(packed) == row * header.height:
            packed = np.unpackbits(packed.reshape(header.height, row), axis=1, count=header.width)
        values = packed.reshape(-1)[:count]
    else:
        dtype = _dtype(header)
        data = _read_raw(file, header, count * dtype.itemsize)
        values = np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype)
    if len(values) < count:
        raise MediaError(f"a {name} file that ends after {len(values)} of {count} numbers: cut short, replace it")
    values = values.reshape(shape).astype(values.dtype.newbyteorder("="), copy=False)
    if not header.max_value:
        return values[::-1].copy()  # PFM stores the bottom row first
    if values.size and header.max_value not in (255, 65535) and (most := int(values.max())) > header.max_value:
        raise MediaError(f"a {name} file that holds {most}, above its largest value {header.max_value}: save it anew")
    return values


def _read_raw(file: BinaryIO, header: Header, size: int) -> bytes:
    """Return the bytes of the samples.

    One byte ends a header, but writers on Windows use two. Only the length of the file tells them apart.
    """
    file.seek(header.end - 1)
    data = file.read(size + 3)
    return data[2:] if data.startswith(b"\r\n") and len(data) == size + 2 else data[1 : size + 1]


def _dtype(header: Header) -> np.dtype:
    """Return the dtype of a sample in a binary file."""
    if not header.max_value:
        return np.dtype(">f4" if header.big_endian else "<f4")
    return np.dtype(">u2" if header.max_value > 255 else "u1")


def _pnm_header(start: bytes) -> Header | None:
    kind = start[1:2]
    fields, end = _header_fields(start, 2 if kind in (b"1", b"4") else 3, ascii_body=kind in (b"1", b"2", b"3"))
    if fields is None:
        return None
    try:
        width, height = int(fields[0]), int(fields[1])
        scale = float(fields[2]) if kind in (b"f", b"F") else 1.0
        max_value = int(fields[2]) if kind in (b"2", b"3", b"5", b"6") else int(kind in (b"1", b"4"))
    except ValueError:
        return None
    if min(width, height) < 1 or not (max_value in range(1, 65536) or kind in (b"f", b"F")) or not abs(scale) > 0:
        return None
    channels = 3 if kind in (b"3", b"6", b"F") else 1
    return Header(kind, width, height, channels, max_value, False, kind in (b"1", b"4"), scale > 0, end)


def _header_fields(start: bytes, count: int, ascii_body: bool) -> tuple[list[bytes] | None, int]:
    """Return the first ``count`` words of a header without comments, and the offset of the samples. None: too few."""
    fields: list[bytes] = []
    place = 2
    for word in re.finditer(rb"#[^\r\n]*|[^\s#]+", start[2:]):
        if not word.group().startswith(b"#"):
            fields.append(word.group())
        place = word.end() + 2
        if len(fields) == count:
            break
    if len(fields) < count:
        return None, 0
    return fields, place + (not ascii_body)  # one byte of white space ends a header


def _pam_header(start: bytes) -> Header | None:
    end = re.search(rb"\nENDHDR[ \t\r]*\n", start)
    if not end:
        return None
    words: dict[bytes, bytes] = {}
    for line in start[2 : end.start()].splitlines():
        name, _, value = line.strip().partition(b" ")
        words[name] = words[name] + b" " + value.strip() if name in words else value.strip()
    try:
        width, height, depth, max_value = (int(words[name]) for name in (b"WIDTH", b"HEIGHT", b"DEPTH", b"MAXVAL"))
    except (KeyError, ValueError):
        return None
    if min(width, height, depth) < 1 or max_value not in range(1, 65536):
        return None
    kind = words.get(b"TUPLTYPE", b"").decode("ascii", "replace") or COLOURS.get(depth, "")
    wanted = {"BLACKANDWHITE": 1, "BLACKANDWHITE_ALPHA": 2} | {name: number for number, name in COLOURS.items()}
    if wanted.get(kind) != depth:
        raise MediaError(f"a PAM file of {depth} channels called {kind or 'nothing'!r}: save it as PNG")
    return Header(b"7", width, height, depth, max_value, kind.endswith("_ALPHA"), False, False, end.end())


def _parse_digits(text: bytes, bits: bool, count: int) -> np.ndarray:
    """Return the numbers of a file written in digits. Digits of a PBM (``bits``) need no space between them."""
    text = re.sub(rb"#[^\r\n]*", b" ", text)
    try:
        if bits:
            values = np.array([digit - ord("0") for digit in b"".join(text.split())[:count]], np.int64)
        else:
            values = np.array([int(word) for word in text.split(None, count)[:count]], np.int64)
    except ValueError:
        raise MediaError("a plain netpbm file that holds more than numbers: save it anew") from None
    if values.size and not 0 <= values.min() <= values.max() < 65536 - 65534 * bits:
        raise MediaError("a plain netpbm file that holds numbers out of range: save it anew")
    return values
