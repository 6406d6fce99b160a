"""The images of an animated GIF, with its frames composed as browsers compose them.

Pillow decodes the pixels of each frame, but composes frames in another way. A frame without a disposal gets the one of
the frame before, and a background colour is shown that browsers leave transparent.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

# Disposals (GIF89a, 23): clear the frame's area, or restore what it showed before.
DISPOSE_TO_BACKGROUND, DISPOSE_TO_PREVIOUS = 2, 3


@dataclass(frozen=True)
class GifFrame:
    """One frame of an animation.

    Attributes:
        left, top, width, height: its area in pixels.
        disposal: what happens to the area afterwards.
        milliseconds: how long it is shown.
        file: a GIF file that holds this frame alone.
    """

    left: int
    top: int
    width: int
    height: int
    disposal: int
    milliseconds: int
    file: bytes


def split_frames(data: bytes) -> Iterator[GifFrame]:
    """Yield the frames of a GIF until it ends, even if it is cut short."""
    file = io.BytesIO(data)
    start = file.read(13)
    palette = _read_palette(file, start[10])
    control = bytes(4)  # flags, delay, transparent colour
    while (mark := file.read(1)) not in (b"", b";"):
        if mark == b"!":
            label, block = file.read(1), _read_blocks(file)
            if label == b"\xf9" and len(block) >= 5:
                control = block[1:5]
        elif mark == b"," and len(place := file.read(9)) == 9:
            left, top, width, height, flags = struct.unpack("<4HB", place)
            colours = _read_palette(file, flags) if flags & 0x80 else palette
            pixels = file.read(1) + _read_blocks(file) + b"\0"
            screen = struct.pack("<HHBBB", width, height, colours[1], 0, 0)
            extension = b"!\xf9\x04" + bytes([control[0] & 1]) + b"\0\0" + control[3:] + b"\0"
            image = b"," + struct.pack("<4HB", 0, 0, width, height, flags & 0x40)  # interlaced or not
            single = b"GIF89a" + screen + colours[0] + extension + image + pixels + b";"
            delay = 10 * int.from_bytes(control[1:3], "little")
            yield GifFrame(left, top, width, height, control[0] >> 2 & 7, delay, single)
            control = bytes(4)  # a control block counts for one frame


def compose_frames(found: list[GifFrame], screen: tuple[int, int]) -> Iterator[Picture]:
    """Yield the animation's images in RGBA. Each is overwritten when the next is asked for.

    Args:
        found: the frames.
        screen: width and height of the animation.
    """
    from PIL import Image

    canvas = Image.new("RGBA", screen)
    for frame in found:
        before = canvas.copy() if frame.disposal == DISPOSE_TO_PREVIOUS else None
        with Image.open(io.BytesIO(frame.file), formats=("GIF",)) as im:
            drawn = im.convert("RGBA")
        canvas.paste(drawn, (frame.left, frame.top), drawn)
        yield canvas
        if before is not None:
            canvas = before
        elif frame.disposal == DISPOSE_TO_BACKGROUND:
            canvas.paste((0, 0, 0, 0), (frame.left, frame.top, frame.left + frame.width, frame.top + frame.height))


def _read_palette(file: io.BytesIO, flags: int) -> tuple[bytes, int]:
    """Return the colours that follow, if any, and the flags that state their number."""
    return (file.read(3 << (flags & 7) + 1), flags & 0x87) if flags & 0x80 else (b"", 0)


def _read_blocks(file: io.BytesIO) -> bytes:
    """Return the blocks up to an empty one, each with the byte of its length."""
    found = []
    while (size := file.read(1)) not in (b"", b"\0"):
        found.append(size + file.read(size[0]))
    return b"".join(found)
