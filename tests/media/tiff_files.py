"""TIFF files of any layout, written by tests from given numbers."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK = 0, 1, 2, 3, 5
NONE, LZW, DEFLATE, OLD_DEFLATE, LZMA, PACKBITS, ZSTD = 1, 5, 8, 32946, 34925, 32773, 50000
PILLOW_NAMES = {LZW: "tiff_lzw", PACKBITS: "packbits", ZSTD: "zstd", LZMA: "lzma"}
BYTE, ASCII, SHORT, LONG, LONG8 = 1, 2, 3, 4, 16


def tiff(
    values: np.ndarray,
    *,
    bits: int | None = None,
    big_endian: bool = False,
    big: bool = False,
    tile: tuple[int, int] | None = None,
    rows: int | None = None,
    planar: bool = False,
    compression: int = NONE,
    predictor: int = 1,
    photometric: int | None = None,
    extra: Sequence[int] = (),
    orientation: int | None = None,
    reverse_bits: bool = False,
    tags: dict[int, tuple[int, Sequence[int]]] | None = None,
) -> bytes:
    """Return a TIFF of one page.

    Args:
        values: ``[H, W]`` or ``[H, W, S]``, as they are stored; unsigned, signed or float.
        bits: of a sample, if fewer than the dtype has; samples are then packed.
        big: BigTIFF, with 64-bit offsets.
        tile: height and width of tiles; None: strips of ``rows`` rows, all rows where ``rows`` is None.
        planar: one plane after the other.
        extra: ExtraSamples, one number for each; 1 is premultiplied alpha, 2 is alpha.
        reverse_bits: FillOrder 2.
        tags: further fields, as number -> (type, numbers).
    """
    values = values[..., None] if values.ndim == 2 else values
    height, width, samples = values.shape
    bits = bits or 8 * values.dtype.itemsize
    if photometric is None:
        photometric = BLACK_IS_ZERO if samples - len(extra) < 3 else RGB
    planes = [values[..., i : i + 1] for i in range(samples)] if planar else [values]
    rows = rows or height
    block_rows, block_columns = tile or (rows, width)
    blocks = []
    for plane in planes:
        for top in range(0, height, block_rows):
            for left in range(0, width, block_columns):
                block = plane[top : top + block_rows, left : left + block_columns]
                # The padding is not zero, so that a reader that shows it is noticed.
                if tile:
                    lack = (block_rows - block.shape[0], block_columns - block.shape[1])
                    block = np.pad(block, ((0, lack[0]), (0, lack[1]), (0, 0)), constant_values=1)
                used = (
                    1 if compression in (NONE, PACKBITS) else predictor
                )  # these two have none, whatever the field says
                packed = _packed(_differences(block, used, big_endian), bits, big_endian)
                coded = compress(packed, compression)
                blocks.append(coded.translate(REVERSED) if reverse_bits else coded)
    form = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    entries: dict[int, tuple[int, Sequence[int]]] = {
        256: (LONG, [width]),
        257: (LONG, [height]),
        258: (SHORT, [bits] * samples),
        259: (SHORT, [compression]),
        262: (SHORT, [photometric]),
        277: (SHORT, [samples]),
        284: (SHORT, [2 if planar else 1]),
        339: (SHORT, [form] * samples),
    }
    if predictor != 1:
        entries[317] = SHORT, [predictor]
    if extra:
        entries[338] = SHORT, list(extra)
    if orientation is not None:
        entries[274] = SHORT, [orientation]
    if reverse_bits:
        entries[266] = SHORT, [2]
    if tile:
        entries |= {322: (LONG, [tile[1]]), 323: (LONG, [tile[0]])}
    else:
        entries[278] = LONG, [rows]
    return assemble(entries | (tags or {}), blocks, tiled=tile is not None, big_endian=big_endian, big=big)


REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def assemble(
    entries: dict[int, tuple[int, Sequence[int]]],
    blocks: Sequence[bytes],
    *,
    tiled: bool = False,
    big_endian: bool = False,
    big: bool = False,
) -> bytes:
    """Join header, blocks and the directory of ``entries`` and the blocks' offsets."""
    order, place_type = (">" if big_endian else "<"), LONG8 if big else LONG
    start = 16 if big else 8
    data, places = bytearray(start), []
    for block in blocks:
        places.append(len(data))
        data += block + b"\0" * (len(block) % 2)
    entries = entries | {
        (324 if tiled else 273): (place_type, places),
        (325 if tiled else 279): (place_type, [len(block) for block in blocks]),
    }
    count, slot, pointer = ("Q", 20, "Q") if big else ("H", 12, "I")
    directory = len(data)
    room = 8 if big else 4
    tail = directory + struct.calcsize(order + count) + slot * len(entries) + room
    body, behind = bytearray(struct.pack(order + count, len(entries))), bytearray()
    for tag, (kind, numbers) in sorted(entries.items()):
        letter = {BYTE: "B", ASCII: "B", SHORT: "H", LONG: "I", LONG8: "Q", 12: "d"}[kind]
        packed = struct.pack(f"{order}{len(numbers)}{letter}", *numbers)
        if len(packed) > room:
            place = struct.pack(order + pointer, tail + len(behind))
            behind += packed + b"\0" * (len(packed) % 2)
            packed = place
        body += struct.pack(f"{order}HH{pointer}", tag, kind, len(numbers)) + packed.ljust(room, b"\0")
    data += body + bytes(room) + behind
    mark = b"MM" if big_endian else b"II"
    head = struct.pack(order + "HHHQ", 43, 8, 0, directory) if big else struct.pack(order + "HI", 42, directory)
    data[:start] = mark + head
    return bytes(data)


def behind(first: bytes, second: bytes) -> bytes:
    """Return two little-endian TIFFs as the pages of one."""
    base, data = len(first) + len(first) % 2, bytearray(first.ljust(len(first) + len(first) % 2, b"\0") + second)
    (place,) = struct.unpack_from("<I", first, 4)
    (count,) = struct.unpack_from("<H", first, place)
    (other,) = struct.unpack_from("<I", second, 4)
    struct.pack_into("<I", data, place + 2 + 12 * count, base + other)
    for at in range(base + other + 2, base + other + 2 + 12 * struct.unpack_from("<H", second, other)[0], 12):
        tag, kind, length = struct.unpack_from("<HHI", data, at)
        size = length * {BYTE: 1, ASCII: 1, SHORT: 2, LONG: 4}[kind]
        values = at + 8
        if size > 4:
            (values,) = struct.unpack_from("<I", data, at + 8)
            values += base
            struct.pack_into("<I", data, at + 8, values)
        if tag in (273, 324):  # places of blocks
            for i in range(length):
                struct.pack_into("<I", data, values + 4 * i, struct.unpack_from("<I", data, values + 4 * i)[0] + base)
    return bytes(data)


def _differences(block: np.ndarray, predictor: int, big_endian: bool) -> np.ndarray:
    """Apply Adobe's predictors: 2 subtracts the left neighbour, 3 does so for bytes of floats, highest first."""
    if predictor == 1:
        return block
    if predictor == 2:
        whole = block.view(f"u{block.dtype.itemsize}").copy()
        whole[:, 1:] -= block.view(whole.dtype)[:, :-1]
        return whole
    height, width, samples = block.shape
    size = block.dtype.itemsize
    rows = block.astype(block.dtype.newbyteorder(">")).view(np.uint8).reshape(height, width * samples, size)
    shuffled = np.ascontiguousarray(rows.transpose(0, 2, 1)).reshape(height, -1)
    result = shuffled.copy()
    result[:, samples:] -= shuffled[:, :-samples]
    return result[..., None]  # bytes, whatever the byte order


def _packed(block: np.ndarray, bits: int, big_endian: bool) -> bytes:
    if block.dtype == np.uint8 and bits >= 8:
        return block.tobytes()
    if bits == 8 * block.dtype.itemsize:
        return block.astype(block.dtype.newbyteorder(">" if big_endian else "<")).tobytes()
    rows = block.reshape(block.shape[0], -1).astype(np.uint32)
    flags = (rows[..., None] >> np.arange(bits - 1, -1, -1, dtype=np.uint32)) & 1
    return np.packbits(flags.reshape(block.shape[0], -1).astype(np.uint8), axis=1).tobytes()


@lru_cache(maxsize=4096)
def compress(data: bytes, compression: int) -> bytes:
    """Compress a strip or tile. Pillow, with an image of one row, does what the standard library lacks."""
    if compression == NONE:
        return data
    if compression in (DEFLATE, OLD_DEFLATE):
        return zlib.compress(data)
    file = io.BytesIO()
    Image.frombytes("L", (len(data), 1), data).save(file, "TIFF", compression=PILLOW_NAMES[compression])
    with Image.open(file) as im:
        offsets, sizes = im.tag_v2[273], im.tag_v2[279]  # type: ignore[attr-defined]
    assert len(offsets) == 1
    return file.getvalue()[offsets[0] : offsets[0] + sizes[0]]
