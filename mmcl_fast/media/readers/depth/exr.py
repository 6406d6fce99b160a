"""One plane of an OpenEXR file. The format: https://openexr.com/en/latest/OpenEXRFileLayout.html"""

from __future__ import annotations

import struct

import numpy as np

from mmcl_fast.errors import MediaError
from mmcl_fast.media.spec import VisualSpec

TILED, DEEP, PARTS = 0x200, 0x800, 0x1000
LINES = (1, 1, 1, 16, 32, 16, 32, 32)  # of a chunk, by compression; from 8 on it is DWA, which is lossy
SAVE = "save the depth as one float channel named Z, compressed with ZIP"


def read_exr(data: bytes, spec: VisualSpec) -> np.ndarray:
    """The depth channel ``[H, W]``, float16 or float32, over the display window (0 where no data are).

    The channel is Z, or the only one, or the only one whose name says depth or disparity, or Y, or R.
    FFmpeg decodes it. It knows single-letter channels R, G, B, A and Y only, so the wanted name is replaced in the
    header by one of the same length that ends in Y, and the others' names by ones that it passes over.
    """
    import av

    if len(data) < 8 or struct.unpack_from("<I", data, 4)[0] & (DEEP | PARTS):
        raise MediaError(f"an OpenEXR file with several parts or deep data: {SAVE}")
    tiled = data[5] & (TILED >> 8)
    attributes, end = _header(data)
    _limit(data, end, attributes, tiled, spec)
    channels = _channels(data, *attributes["channels"])
    wanted = _wanted([name for name, *_ in channels])
    patched, options = bytearray(data), {}
    for name, place, kind, sampling in channels:
        other = b"_" * len(name)
        if name == wanted:
            if kind == 0 or sampling != (1, 1) or len(name) == 2:
                raise MediaError(
                    f"channel {name.decode(errors='replace')!r} holds whole numbers, is subsampled or has "
                    f"a name of two letters: {SAVE}"
                )
            other = b"Y" if len(name) == 1 else b"_" * (len(name) - 2) + b".Y"
            options = {"layer": "_" * (len(name) - 2)} if len(name) > 1 else {}
        patched[place : place + len(name)] = other
    decoder = av.CodecContext.create("exr", "r")
    decoder.thread_count, decoder.options = 1, options
    frame = (decoder.decode(av.Packet(bytes(patched))) or decoder.decode(None))[0]
    plane = np.frombuffer(memoryview(frame.planes[0]), np.float16 if "f16" in frame.format.name else np.float32)
    return plane.reshape(frame.height, -1)[:, : frame.width]


def _header(data: bytes) -> tuple[dict[str, tuple[int, int]], int]:
    """Attribute name -> (place, size), and where the header ends."""
    found, place = {}, 8
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


def _limit(data: bytes, end: int, attributes: dict[str, tuple[int, int]], tiled: int, spec: VisualSpec) -> None:
    """Raises MediaError where the picture is too large or the file does not hold all of it."""
    sides = []
    for name in ("dataWindow", "displayWindow"):
        left, top, right, bottom = struct.unpack_from("<4i", data, attributes[name][0])
        sides.append((right - left + 1, bottom - top + 1))
        if min(sides[-1]) < 1:
            raise MediaError(f"an OpenEXR {name} of {sides[-1][0]} x {sides[-1][1]} pixels: replace the file")
        if sides[-1][0] * sides[-1][1] > spec.max_pixels:
            raise MediaError(
                f"{sides[-1][0]} x {sides[-1][1]} pixels, the limit is {spec.max_pixels}: "
                "make it smaller or raise max_pixels"
            )
    (width, height), _ = sides
    compression = data[attributes["compression"][0]]
    if compression >= len(LINES):
        raise MediaError(f"an OpenEXR file with DWA compression: {SAVE}")
    count, start = -(-height // LINES[compression]), 4
    if tiled:
        if "tiles" not in attributes:
            raise MediaError("an OpenEXR header without tiles: replace the file")
        x, y = struct.unpack_from("<2I", data, attributes["tiles"][0])
        count, start = -(-width // max(x, 1)) * -(-height // max(y, 1)), 16
    if end + 8 * count > len(data):
        raise MediaError("an OpenEXR file that is cut short: replace it")
    # The decoder leaves a missing chunk black without a word.
    for place in struct.unpack_from(f"<{count}Q", data, end):
        if not 0 < place <= len(data) - start - 4 or place + start + 4 + struct.unpack_from("<I", data, place + start)[
            0
        ] > len(data):
            raise MediaError("an OpenEXR file that is cut short: replace it")


def _channels(data: bytes, place: int, size: int) -> list[tuple[bytes, int, int, tuple[int, int]]]:
    """(name, its place, pixel type, sampling) of each channel."""
    found, stop = [], min(place + size, len(data))
    while place < stop and data[place]:
        end = data.index(b"\0", place, stop)
        kind, _, x, y = struct.unpack_from("<4i", data, end + 1)
        found.append((data[place:end], place, kind, (x, y)))
        place = end + 17
    return found


def _wanted(names: list[bytes]) -> bytes:
    said = [name for name in names if b"depth" in name.lower() or b"disp" in name.lower()]
    for choice in ([b"Z"], names, said, [b"Y"], [b"R"]):
        if len(choice) == 1 and choice[0] in names:
            return choice[0]
    listed = ", ".join(name.decode(errors="replace") for name in names[:8])
    raise MediaError(f"an OpenEXR file with channels {listed or 'none'}, none of which is depth: {SAVE}")
