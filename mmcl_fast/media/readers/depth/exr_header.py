"""The header of an OpenEXR file: its parts, their channels, and the checks to make before a decoder sees the file.

The format: https://openexr.com/en/latest/OpenEXRFileLayout.html. Neither decoder makes these checks: FFmpeg leaves a
missing chunk black, and OpenEXR leaves out the whole part.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mmcl_fast.errors import MediaError
from mmcl_fast.media.spec import VisualSpec

TILED, DEEP, MULTI_PART = 0x200, 0x800, 0x1000  # bits of the version field
UINT, HALF, FLOAT = 0, 1, 2  # pixel types
LINES_PER_CHUNK = (1, 1, 1, 16, 32, 16, 32, 32, 32, 256)  # by compression; later ones are left to OpenEXR
SAVE = "save the depth as one float channel named Z, compressed with ZIP"

Window = tuple[int, int, int, int]  # left, top, right, bottom; the last column and row belong to it


@dataclass(frozen=True)
class Channel:
    """One channel of a part.

    Attributes:
        name: as the file spells it.
        offset: of the name in the file, in bytes.
        pixel_type: UINT, HALF or FLOAT.
        sampling: every how many columns and rows hold a value.
    """

    name: bytes
    offset: int
    pixel_type: int
    sampling: tuple[int, int]


@dataclass(frozen=True)
class Part:
    """One image of a file.

    Attributes:
        channels: its channels.
        data_window: the pixels that the file holds.
        display_window: the pixels that are to be shown.
        compression: its number in the file format.
        tile: width and height of a tile; None: the part consists of rows.
        chunks: offset in the file of each chunk of the full size; empty where their number is not known.
        window_offsets: of the data window and of the display window in the file, in bytes.
    """

    channels: tuple[Channel, ...]
    data_window: Window
    display_window: Window
    compression: int
    tile: tuple[int, int] | None
    chunks: tuple[int, ...]
    window_offsets: tuple[int, int]


def read_parts(data: bytes, spec: VisualSpec) -> list[Part]:
    """Return the parts of a file.

    Raises:
        MediaError: the header is incomplete, a part is deep or has more than ``spec.max_pixels`` pixels, or the file
            ends before its chunks do.
    """
    if len(data) < 8:
        raise MediaError("an OpenEXR file that is cut short: replace it")
    (version,) = struct.unpack_from("<I", data, 4)
    if version & DEEP:
        raise MediaError(f"an OpenEXR file with deep data: {SAVE}")
    several = bool(version & MULTI_PART)
    headers, place = [], 8
    while True:
        attributes, place = _read_attributes(data, place)
        headers.append(attributes)
        if not several or data[place : place + 1] in (b"\0", b""):  # an empty header ends the list
            break
    place += several
    parts = []
    for attributes in headers:
        parts.append(_make_part(data, place, attributes, bool(version & TILED), several, spec))
        place += 8 * len(parts[-1].chunks)
    return parts


def choose_channel(parts: list[Part]) -> tuple[int, Channel]:
    """Return the number of the part that holds the depth, and its channel.

    The channel is Z, or the only one, or the only one whose name says depth or disparity, or Y, or R. Where several
    parts hold it, as in a stereo image, the first part counts. Raises MediaError if there is none.
    """
    names = list(dict.fromkeys(channel.name for part in parts for channel in part.channels))
    speaking = [name for name in names if b"depth" in name.lower() or b"disp" in name.lower()]
    for choice in ([b"Z"], names, speaking, [b"Y"], [b"R"]):
        if len(choice) == 1 and choice[0] in names:
            return next((i, c) for i, part in enumerate(parts) for c in part.channels if c.name == choice[0])
    listed = ", ".join(name.decode(errors="replace") for name in names[:8])
    raise MediaError(f"an OpenEXR file with channels {listed or 'none'}, none of which is depth: {SAVE}")


def _read_attributes(data: bytes, place: int) -> tuple[dict[str, tuple[int, int]], int]:
    """Return attribute name -> (offset, size) of the header at ``place``, and the offset behind the header."""
    found: dict[str, tuple[int, int]] = {}
    while data[place : place + 1] not in (b"\0", b""):
        name_end = data.index(b"\0", place, place + 257)
        type_end = data.index(b"\0", name_end + 1, name_end + 258)
        size = struct.unpack_from("<I", data, type_end + 1)[0]
        found[data[place:name_end].decode("latin-1")] = type_end + 5, size
        place = type_end + 5 + size
    for name in ("channels", "compression", "dataWindow", "displayWindow"):
        if name not in found:
            raise MediaError(f"an OpenEXR header without {name}: replace the file")
    return found, place + 1


def _make_part(
    data: bytes, table: int, attributes: dict[str, tuple[int, int]], tiled: bool, several: bool, spec: VisualSpec
) -> Part:
    """Check one header and return its part.

    Args:
        data: the file.
        table: offset of the part's table of chunk offsets.
        attributes: the header.
        tiled, several: bits of the version field: a single part in tiles; several parts.
        spec: its ``max_pixels`` is the limit.
    """
    if "type" in attributes:
        offset, size = attributes["type"]
        kind = data[offset : offset + size]
        if kind.startswith(b"deep"):
            raise MediaError(f"an OpenEXR file with deep data: {SAVE}")
        tiled = tiled or (several and kind == b"tiledimage")  # the version field knows no parts
    data_window, display_window = (
        _read_window(data, attributes, name, spec) for name in ("dataWindow", "displayWindow")
    )
    left, top, right, bottom = data_window
    compression, tile, count = data[attributes["compression"][0]], None, 0
    if tiled:
        if "tiles" not in attributes:
            raise MediaError("an OpenEXR header without tiles: replace the file")
        x, y = struct.unpack_from("<2I", data, attributes["tiles"][0])
        tile = max(x, 1), max(y, 1)
        count = -(-(right - left + 1) // tile[0]) * -(-(bottom - top + 1) // tile[1])
    elif compression < len(LINES_PER_CHUNK):
        count = -(-(bottom - top + 1) // LINES_PER_CHUNK[compression])
    if several:
        if "chunkCount" not in attributes:
            raise MediaError("an OpenEXR header without chunkCount: replace the file")
        count = max(0, struct.unpack_from("<i", data, attributes["chunkCount"][0])[0])
    return Part(
        _read_channels(data, *attributes["channels"]),
        data_window,
        display_window,
        compression,
        tile,
        _find_chunks(data, table, count, (16 if tile else 4) + 4 * several),
        (attributes["dataWindow"][0], attributes["displayWindow"][0]),
    )


def _read_window(data: bytes, attributes: dict[str, tuple[int, int]], name: str, spec: VisualSpec) -> Window:
    left, top, right, bottom = struct.unpack_from("<4i", data, attributes[name][0])
    width, height = right - left + 1, bottom - top + 1
    if min(width, height) < 1:
        raise MediaError(f"an OpenEXR {name} of {width} x {height} pixels: replace the file")
    if width * height > spec.max_pixels:
        raise MediaError(
            f"{width} x {height} pixels, the limit is {spec.max_pixels}: make it smaller or raise max_pixels"
        )
    return left, top, right, bottom


def _find_chunks(data: bytes, table: int, count: int, size_at: int) -> tuple[int, ...]:
    """Return the offsets of ``count`` chunks. Raises MediaError if the file does not hold all of them.

    ``size_at``: bytes of the part number and the coordinates, which come before a chunk's size.
    """
    if table + 8 * count > len(data):
        raise MediaError("an OpenEXR file that is cut short: replace it")
    chunks = struct.unpack_from(f"<{count}Q", data, table)
    for place in chunks:
        if not 0 < place <= len(data) - size_at - 4:
            raise MediaError("an OpenEXR file that is cut short: replace it")
        if place + size_at + 4 + struct.unpack_from("<I", data, place + size_at)[0] > len(data):
            raise MediaError("an OpenEXR file that is cut short: replace it")
    return chunks


def _read_channels(data: bytes, place: int, size: int) -> tuple[Channel, ...]:
    found, stop = [], min(place + size, len(data))
    while place < stop and data[place]:
        end = data.index(b"\0", place, stop)
        pixel_type, _, x, y = struct.unpack_from("<4i", data, end + 1)
        found.append(Channel(data[place:end], place, pixel_type, (x, y)))
        place = end + 17
    return tuple(found)
