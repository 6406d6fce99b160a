"""The first page of a TIFF as the numbers that it holds. The format: TIFF 6.0, and BigTIFF for 64-bit offsets.

Not by Pillow, which knows few layouts of 16 bits, nor by FFmpeg, which leaves tiles black. Both lack signed numbers,
floats or planes in some layouts. Here Pillow only undoes the compression. The directory, the byte order, the predictor
and the planes are read by this module.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from mmcl_fast.errors import MediaError
from mmcl_fast.media import formats

# Some writers put the second half into the other byte order.
MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"II\0*", b"MM*\0")
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
NONE, LZW, DEFLATE, OLD_DEFLATE, PACKBITS, LZMA, ZSTD = 1, 5, 8, 32946, 32773, 34925, 50000
COMPRESSIONS = (NONE, LZW, DEFLATE, OLD_DEFLATE, PACKBITS, LZMA, ZSTD)
FAX, JPEG = (2, 3, 4), (6, 7)
UNREAD_COMPRESSIONS = {
    7: "JPEG",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34661: "JBIG",
    34712: "JPEG 2000",
    34887: "LERC",
    34892: "lossy JPEG",
    34933: "PNG",
    34934: "JPEG XR",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
UNREAD_COLOURS = {
    6: "YCbCr",
    8: "CIELab",
    9: "ICCLab",
    32803: "a camera's filter",
    32845: "LogLuv",
    34892: "linear raw",
}
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
MAX_SAMPLES = 8  # channels; a file with more holds the bands of a spectrometer
SHORT, LONG = 3, 4
XMP = 700
WANTED = {*range(254, 260), 262, 266, 273, 274, *range(277, 285), *range(317, 326), 330, 338, 339, 530, XMP}
INTEGERS = {7: "B", 1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}  # by type
SAVE = "save it as PNG, or as TIFF with LZW or deflate"


@dataclass(frozen=True)
class TiffPage:
    """The fields of one directory, which describe one image.

    Attributes:
        order: byte order: "<" or ">".
        width, height: in pixels.
        samples: channels of a pixel.
        bits: of a sample.
        form: of a sample: UNSIGNED, SIGNED or FLOAT.
        photometric: the meaning of the numbers: WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK or another number.
        compression: NONE, LZW or another number.
        predictor: 1: none; 2: differences of samples; 3: differences of the bytes of floats.
        planar: whether each channel is stored by itself.
        extra: the meaning of the samples behind the colours: 1 premultiplied alpha, 2 alpha, others unknown.
        orientation: 1 to 8, as in EXIF.
        fill_order: 2: the bits of each byte are reversed.
        tiled: whether the blocks are tiles, not strips.
        block_shape: height and width of a strip or tile.
        block_offsets, block_sizes: of the strips or tiles in the file, in bytes.
        palette: 16-bit red of each number, then green, then blue.
        bigtiff: whether offsets have 64 bits.
        subsampled: YCbCr with fewer pixels in Cb and Cr.
        is_first: whether it is the file's first page.
    """

    order: str
    width: int
    height: int
    samples: int
    bits: int
    form: int
    photometric: int
    compression: int
    predictor: int
    planar: bool
    extra: tuple[int, ...]
    orientation: int
    fill_order: int
    tiled: bool
    block_shape: tuple[int, int]
    block_offsets: tuple[int, ...]
    block_sizes: tuple[int, ...]
    palette: tuple[int, ...]
    bigtiff: bool
    subsampled: bool
    is_first: bool

    @property
    def readable(self) -> bool:
        """Whether ``read_samples`` can read it."""
        return (
            self.compression in COMPRESSIONS
            and self.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK)
            and self.form in (UNSIGNED, SIGNED, FLOAT)
        )

    def require_pillow_support(self) -> None:
        """Raise MediaError unless Pillow is known to read it rightly: fax codes, JPEG and YCbCr of 8 bits."""
        fits = (
            (self.compression in FAX and self.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO))
            or (self.compression in JPEG and self.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, CMYK, YCBCR))
            or (self.compression in COMPRESSIONS[1:] and self.photometric == YCBCR)
            or (self.compression == NONE and self.photometric == YCBCR and not self.planar and not self.subsampled)
        )
        known = self.is_first and self.bits <= 8 and self.form == UNSIGNED and not (self.bigtiff and self.order == ">")
        if not fits or not known or (self.planar and self.extra):
            what = f"{'big-endian BigTIFF' if self.bigtiff and self.order == '>' else 'TIFF'} of {self.bits} bits"
            compression = UNREAD_COMPRESSIONS.get(self.compression, f"compression {self.compression}")
            colours = UNREAD_COLOURS.get(self.photometric, f"colours {self.photometric}")
            raise MediaError(f"a {what} with {compression} and {colours}: {SAVE}")


def read_page(file: BinaryIO, max_pixels: int) -> TiffPage:
    """Return the first page that is not marked as a reduced copy of another page.

    Raises:
        MediaError: the directory is broken, the image has more than ``max_pixels`` pixels, or a camera's raw image
            follows the first page, as in DNG.
    """
    file.seek(0)
    row = formats.recognise(file.read(formats.HEAD))
    if row is not None and not row.library:
        raise MediaError(row.refusal)
    pages = _read_directories(file)
    first = order, directory = next(pages)
    if _is_reduced_copy(directory):
        order, directory = next((page for page in pages if not _is_reduced_copy(page[1])), first)

    def numbers(tag: int, default: Sequence[int] | None = None) -> tuple[int, ...]:
        found = directory.get(tag) or default
        if not found:
            raise MediaError(f"a TIFF without the field {tag}: replace the file")
        return tuple(found)

    (width, *_), (height, *_) = numbers(256), numbers(257)
    if width < 1 or height < 1:
        raise MediaError(f"a TIFF of {width} x {height} pixels: replace the file")
    if width * height > max_pixels:
        raise MediaError(f"{width} x {height} pixels, the limit is {max_pixels}: make it smaller or raise max_pixels")
    compression = numbers(259, (NONE,))[0]
    samples, bits, forms = numbers(277, (len(numbers(258, (1,))),))[0], {*numbers(258, (1,))}, {*numbers(339, (1,))}
    if len(bits) > 1 or len(forms) > 1:
        raise MediaError(f"a TIFF whose channels have different numbers of bits: {SAVE}")
    if not 1 <= samples <= MAX_SAMPLES:
        raise MediaError(f"a TIFF of {samples} channels, the limit is {MAX_SAMPLES}: save the channels of an image")
    tiled = 322 in directory
    block = (numbers(323)[0], numbers(322)[0]) if tiled else (min(numbers(278, (height,))[0], height), width)
    if min(block) < 1 or math.prod(block) > max(max_pixels, 1 << 20):
        raise MediaError(f"a TIFF in blocks of {block[1]} x {block[0]} pixels: replace the file")
    return TiffPage(
        order=order,
        width=width,
        height=height,
        samples=samples,
        bits=bits.pop(),
        form={4: UNSIGNED}.get(form := forms.pop(), form),
        photometric=numbers(262, (BLACK_IS_ZERO if samples < 3 else RGB,))[0],
        compression=compression,
        predictor=1 if compression in (NONE, PACKBITS) else numbers(317, (1,))[0],  # libtiff knows none for these
        planar=samples > 1 and numbers(284, (1,))[0] == 2,
        extra=numbers(338) if 338 in directory else (),
        orientation=numbers(274)[0] if 274 in directory else _xmp_orientation(bytes(directory.get(XMP, ()))),
        fill_order=numbers(266, (1,))[0],
        tiled=tiled,
        block_shape=block,
        block_offsets=numbers(324 if tiled and 324 in directory else 273),
        block_sizes=numbers(325 if tiled and 325 in directory else 279, (0,)),
        palette=numbers(320, (0,)),
        bigtiff=b"+" in _read_bytes(file, 0, 4),
        subsampled=set(numbers(530, (2, 2))) != {1},
        is_first=directory is first[1],
    )


def _is_reduced_copy(directory: dict[int, tuple[int, ...]]) -> bool:
    """Return whether NewSubfileType (tag 254) marks the page as a reduced copy of another page."""
    return bool(directory.get(254, (0,))[0] & 1)


def _read_directories(file: BinaryIO) -> Iterator[tuple[str, dict[int, tuple[int, ...]]]]:
    """Yield byte order and directory of the first page, of its sub-pages (SubIFDs) and of later pages: 64 at most."""
    start = _read_bytes(file, 0, 16)
    order, big = ("<" if start.startswith(b"II") else ">"), b"+" in start[2:4]
    places = [struct.unpack_from(order + "Q", start, 8)[0] if big else struct.unpack_from(order + "I", start, 4)[0]]
    for i in range(64):
        if i == len(places):
            return
        directory, behind = _read_directory(file, order, big, places[i])
        yield order, directory
        places += [place for place in (*directory.get(330, ()), behind) if place and place not in places]


def _read_directory(file: BinaryIO, order: str, big: bool, place: int) -> tuple[dict[int, tuple[int, ...]], int]:
    """Return the values of the fields in WANTED, and the offset of the next directory, 0 where there is none."""
    pointer, counter, slot, room = ("Q", "Q", 20, 8) if big else ("I", "H", 12, 4)
    (count,) = struct.unpack(order + counter, _read_bytes(file, place, struct.calcsize(counter)))
    place += struct.calcsize(counter)
    entries = _read_bytes(file, place, slot * min(count, 1 << 16))
    found: dict[int, tuple[int, ...]] = {}
    for at in range(0, len(entries), slot):
        tag, kind, length = struct.unpack_from(f"{order}HH{pointer}", entries, at)
        if tag not in WANTED or kind not in INTEGERS:
            continue
        size = struct.calcsize(INTEGERS[kind]) * length
        packed = entries[at + slot - room : at + slot - room + size]
        if size > room:
            packed = _read_bytes(file, struct.unpack_from(order + pointer, entries, at + slot - room)[0], size)
        found[tag] = struct.unpack(f"{order}{length}{INTEGERS[kind]}", packed)
    file.seek(place + len(entries))
    behind = file.read(room)  # some writers leave it out
    return found, struct.unpack(order + pointer, behind)[0] if len(behind) == room else 0


def _xmp_orientation(xmp: bytes) -> int:
    """Return the orientation that XMP states, 1 where it states none."""
    found = re.search(rb"tiff:Orientation(?:=[\"']|>)([1-8])", xmp)
    return int(found[1]) if found else 1


def _read_bytes(file: BinaryIO, place: int, size: int) -> bytes:
    """Return ``size`` bytes from ``place`` on. Raises MediaError if the file ends before."""
    end = file.seek(0, io.SEEK_END)
    if place + size > end:
        raise MediaError(f"a TIFF that ends at byte {end} and needs {place + size}: cut short, replace the file")
    file.seek(place)
    return file.read(size)


def read_samples(page: TiffPage, file: BinaryIO) -> np.ndarray:
    """Read the samples ``[H, W, samples]`` as they are stored, not turned upright.

    Returns:
        uint8 to uint64, int8 to int64, or float16 to float64. Samples of other numbers of bits become the next larger
        unsigned integer.

    Raises:
        MediaError: the layout or number format is unknown, or blocks are missing.
    """
    dtype = _dtype(page)
    channels = 1 if page.planar else page.samples
    rows, columns = page.block_shape
    down, across = -(-page.height // rows), -(-page.width // columns)
    count, planes = down * across, page.samples if page.planar else 1
    if len(page.block_offsets) < count * planes:
        found = len(page.block_offsets)
        raise MediaError(f"a TIFF with {found} of {count * planes} blocks: cut short, replace the file")
    row_bytes = -(-columns * channels * page.bits // 8)
    result = np.empty((page.height, page.width, page.samples), dtype.newbyteorder("="))
    for plane in range(planes):
        blocks = slice(plane * count, (plane + 1) * count)
        # Tiles are padded to their full height, the last strip is not.
        height = rows * count if page.tiled else page.height
        raw = _read_plane(page, file, blocks, height, row_bytes)
        into = result[..., plane : plane + 1] if page.planar else result
        if not page.tiled:  # strips follow each other without a gap
            values = _unpack_samples(page, raw, columns, channels, dtype)
            if planes == 1:
                return values.astype(result.dtype, copy=False)
            into[:] = values
            continue
        for i in range(count):
            top, left = i // across * rows, i % across * columns
            part = raw[i * rows : (i + 1) * rows]
            values = _unpack_samples(page, part, columns, channels, dtype)
            bottom, right = min(top + rows, page.height), min(left + columns, page.width)
            into[top:bottom, left:right] = values[: bottom - top, : right - left]
    return result


def _dtype(page: TiffPage) -> np.dtype:
    """Return the dtype of a sample as it is stored or, where its bits fill no whole bytes, as it is unpacked to."""
    kind = {UNSIGNED: "u", SIGNED: "i", FLOAT: "f"}.get(page.form)
    fills_bytes = page.bits in (8, 16, 32, 64)
    if kind == "u" and 1 <= page.bits < 16 and not fills_bytes:
        return np.dtype(np.uint8 if page.bits < 8 else np.uint16)
    if kind is None or not fills_bytes or (kind == "f" and page.bits == 8):
        raise MediaError(f"a TIFF of {page.bits} bits a channel in sample format {page.form}: {SAVE}")
    return np.dtype(f"{page.order}{kind}{page.bits // 8}")


def _read_plane(page: TiffPage, file: BinaryIO, blocks: slice, height: int, row_bytes: int) -> np.ndarray:
    """Read the blocks of one plane below each other and decompressed: uint8 ``[height, row_bytes]``."""
    places, sizes, rows = page.block_offsets[blocks], page.block_sizes[blocks], page.block_shape[0]
    wanted = [min(rows, height - i * rows) * row_bytes for i in range(len(places))]
    if len(sizes) < len(places) or 0 in sizes:  # some writers leave the sizes out
        if page.compression != NONE and len(places) > 1:
            raise MediaError("a TIFF that does not state its blocks' sizes: save it anew")
        sizes = (max(file.seek(0, io.SEEK_END) - places[0], 0),)
    parts = [_read_bytes(file, *one) for one in zip(places, wanted if page.compression == NONE else sizes)]
    if page.compression in (DEFLATE, OLD_DEFLATE):
        if page.fill_order == 2:
            parts = [part.translate(REVERSED) for part in parts]
        parts = [_inflate(part, need) for part, need in zip(parts, wanted)]
    elif page.compression != NONE:
        return _decompress_by_libtiff(page, parts, height, row_bytes)
    joined = np.frombuffer(b"".join(parts), np.uint8).reshape(height, row_bytes)
    if page.fill_order == 2 and page.compression == NONE:
        return np.frombuffer(REVERSED, np.uint8)[joined]
    return joined


REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _inflate(part: bytes, need: int) -> bytes:
    found = zlib.decompressobj().decompress(part, need)
    if len(found) < need:
        raise MediaError("a TIFF whose block is cut short: replace the file")
    return found


def _decompress_by_libtiff(page: TiffPage, parts: Sequence[bytes], height: int, row_bytes: int) -> np.ndarray:
    """Decompress by libtiff: wrap the blocks into a TIFF of a grey 8-bit image that is ``row_bytes`` pixels wide."""
    from PIL.TiffImagePlugin import TiffImageFile

    place, places = 8, []
    for part in parts:
        places.append(place)
        place += len(part)
    fields = (
        (256, LONG, [row_bytes]),
        (257, LONG, [height]),
        (258, SHORT, [8]),
        (259, SHORT, [page.compression]),
        (262, SHORT, [BLACK_IS_ZERO]),
        (266, SHORT, [page.fill_order]),
        (273, LONG, places),
        (277, SHORT, [1]),
        (278, LONG, [page.block_shape[0]]),
        (279, LONG, [len(part) for part in parts]),
    )
    place += place % 2
    behind = place + 2 + 12 * len(fields) + 4
    directory, tail = bytearray(struct.pack("<H", len(fields))), b""
    for tag, kind, numbers in fields:
        packed = struct.pack(f"<{len(numbers)}{'H' if kind == SHORT else 'I'}", *numbers)
        if len(packed) > 4:
            packed, tail = struct.pack("<I", behind + len(tail)), tail + packed
        directory += struct.pack("<HHI", tag, kind, len(numbers)) + packed.ljust(4, b"\0")
    body = b"".join(parts)
    made = struct.pack("<2sHI", b"II", 42, place) + body + bytes(place - 8 - len(body)) + directory + bytes(4) + tail
    # Not by Image.open, which takes these bytes for pixels and refuses many of them.
    with TiffImageFile(io.BytesIO(made)) as im:
        im.load()
        return np.asarray(im)


def _unpack_samples(page: TiffPage, raw: np.ndarray, columns: int, channels: int, dtype: np.dtype) -> np.ndarray:
    """Convert bytes ``[rows, row_bytes]`` to samples ``[rows, columns, channels]`` and undo the predictor."""
    rows = len(raw)
    if page.bits in (8, 16, 32, 64):
        if page.predictor == 3:
            return _undo_float_predictor(raw, columns, channels, dtype)
        values = np.ascontiguousarray(raw).view(dtype).reshape(rows, columns, channels)
        if page.predictor == 2:
            unsigned = np.dtype(f"u{dtype.itemsize}")
            differences = values.view(f"{page.order}u{dtype.itemsize}").astype(unsigned)
            return np.cumsum(differences, axis=1, dtype=unsigned).view(dtype.newbyteorder("="))
        if page.predictor == 1:
            return values
    elif page.predictor == 1:
        flags = np.unpackbits(raw, axis=1, count=columns * channels * page.bits)
        flags = flags.reshape(rows, columns, channels, page.bits)
        values = np.zeros(flags.shape[:-1], dtype)
        for bit in range(page.bits):
            values = (values << 1) | flags[..., bit]
        return values
    raise MediaError(f"a TIFF of {page.bits} bits a channel with predictor {page.predictor}: {SAVE}")


def _undo_float_predictor(raw: np.ndarray, columns: int, channels: int, dtype: np.dtype) -> np.ndarray:
    """Undo predictor 3: a row holds the highest bytes of all its numbers first, and all bytes as differences."""
    if dtype.kind != "f":
        raise MediaError(f"a TIFF of whole numbers with predictor 3: {SAVE}")
    rows, step = len(raw), channels
    summed = np.cumsum(raw.reshape(rows, -1, step), axis=1, dtype=np.uint8)
    split = summed.reshape(rows, dtype.itemsize, columns * channels).transpose(0, 2, 1)
    return np.ascontiguousarray(split).view(dtype.newbyteorder(">")).reshape(rows, columns, channels)
