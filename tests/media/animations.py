"""Animated images that tests write byte by byte, because Pillow would optimise their frames away."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

Colour = tuple[int, int, int, int]
Box = tuple[int, int, int, int]  # left, top, width, height
SIDE = 16
ALL: Box = (0, 0, SIDE, SIDE)


@dataclass
class Drawn:
    """A frame of one colour. ``dispose``, ``blend`` and ``delay`` have the numbers and units of the file format."""

    colour: Colour
    box: Box = ALL
    dispose: int = 0
    blend: int = 0
    delay: int = 10


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def apng(frames: list[Drawn], default: Colour | None = None, plays: int = 0, unit: int = 100) -> bytes:
    """Return an animated PNG. ``default``: an image outside the animation. ``unit``: delay units in a second."""
    data = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 6, 0, 0, 0))
    data += _chunk(b"acTL", struct.pack(">II", len(frames), plays))
    number = 0
    if default is not None:
        data += _chunk(b"IDAT", _pixels(default, ALL))
    for i, frame in enumerate(frames):
        left, top, width, height = frame.box
        control = struct.pack(
            ">IIIIIHHBB", number, width, height, left, top, frame.delay, unit, frame.dispose, frame.blend
        )
        data += _chunk(b"fcTL", control)
        number += 1
        if i == 0 and default is None:
            data += _chunk(b"IDAT", _pixels(frame.colour, frame.box))
        else:
            data += _chunk(b"fdAT", struct.pack(">I", number) + _pixels(frame.colour, frame.box))
            number += 1
    return data + _chunk(b"IEND", b"")


def _pixels(colour: Colour, box: Box) -> bytes:
    return zlib.compress((b"\0" + bytes(colour) * box[2]) * box[3])


def gif(frames: list[Drawn], plays: int | None = 0) -> bytes:
    """Return an animated GIF. Colours of alpha 0 are transparent. ``plays``: loop count; None: leave it out."""
    data = b"GIF89a" + struct.pack("<HHBBB", SIDE, SIDE, 0x70, 0, 0)
    if plays is not None:
        data += b"!\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<H", plays) + b"\0"
    for frame in frames:
        clear = int(frame.colour[3] == 0)
        data += b"!\xf9\x04" + struct.pack("<BHB", frame.dispose << 2 | clear, frame.delay, 0) + b"\0"
        left, top, width, height = frame.box
        data += b"," + struct.pack("<HHHHB", left, top, width, height, 0x86) + bytes(frame.colour[:3]) + bytes(127 * 3)
        # Codes of 8 bits: 128 clears the table before codes grow longer, 129 ends the data.
        codes = b"".join(b"\x80" + bytes(min(100, width * height - i)) for i in range(0, width * height, 100)) + b"\x81"
        blocks = (codes[i : i + 255] for i in range(0, len(codes), 255))
        data += b"\x07" + b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"
    return data + b";"
