"""Depth maps of every layout must give exactly the numbers that were written."""

from __future__ import annotations

import io
import itertools
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from mmcl_fast.errors import MediaError
from mmcl_fast.media import check, decode
from mmcl_fast.media.readers.depth.depth_files import read_plane
from tests.media.files import plain
from tests.media.layouts import COMPRESSIONS, STRIPS, TILES, orient
from tests.media.png_files import exif, png
from tests.media.tiff_files import (
    BLACK_IS_ZERO,
    CMYK,
    DEFLATE,
    LZW,
    NONE,
    PACKBITS,
    PALETTE,
    RGB,
    SHORT,
    WHITE_IS_ZERO,
    ZSTD,
    tiff,
)

TYPES = ("u2", "u4", "u8", "i2", "i4", "i8", "f2", "f4", "f8")
SHAPE = (21, 26)


def numbers(dtype: str) -> np.ndarray:
    """Return numbers of the whole range of the type, or thirds of metres."""
    kind, rng = np.dtype(dtype), np.random.default_rng(3)
    if kind.kind == "f":
        return (rng.integers(1, 30, SHAPE) / 3).astype(kind)
    limits = np.iinfo(kind)
    return rng.integers(limits.min, limits.max, SHAPE, kind, endpoint=True)


def same(data: bytes, values: np.ndarray, **spec) -> bool:
    got = read_plane(data, plain("depth", **spec))
    return got.dtype == values.dtype and np.array_equal(got, values)


@pytest.mark.parametrize("dtype", TYPES)
def test_tiff_types(dtype):
    """Every type, block, compression, predictor, byte order, offset size and white gives the numbers as stored."""
    values = numbers(dtype)
    predictors = (1, 2, 3) if dtype[0] == "f" else (1, 2)
    for blocks, compression, predictor, big_endian, big in itertools.product(
        (STRIPS, TILES), COMPRESSIONS, predictors, (False, True), (False, True)
    ):
        data = tiff(
            values,
            compression=compression,
            predictor=predictor,
            big_endian=big_endian,
            big=big,
            photometric=WHITE_IS_ZERO if big_endian == big else BLACK_IS_ZERO,
            **blocks,
        )
        assert same(data, values), f"{blocks} {compression=} {predictor=} {big_endian=} {big=}"


@pytest.mark.parametrize("bits", [9, 10, 12, 14])
@pytest.mark.parametrize("compression", [NONE, LZW, PACKBITS])
@pytest.mark.parametrize("blocks", [STRIPS, TILES], ids=["strips", "tiles"])
def test_tiff_of_packed_bits(bits, compression, blocks):
    values = numbers("u2") >> 16 - bits
    assert same(tiff(values, bits=bits, compression=compression, **blocks), values)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_maps_are_turned(orientation):
    """Maps are turned by the EXIF orientation, and then agree with a map that was stored upright."""
    values = numbers("u2")
    upright = orient(values, orientation)
    spec = plain("depth", size=8, resize="crop", depth_range=(1.0, 60.0))
    want = decode(png(upright), "depth", spec)
    for data in (
        png(values, before=[exif(orientation)]),
        png(values, after=[exif(orientation)], interlaced=True),
        tiff(values, orientation=orientation, **TILES),
        tiff(values, orientation=orientation, compression=ZSTD, big_endian=True, **STRIPS),
    ):
        assert same(data, upright)
        check(data, "depth", spec)
        assert torch.equal(decode(data, "depth", spec), want)
    floats = tiff((values / 1000).astype(np.float32), orientation=orientation, compression=LZW, predictor=3)
    assert torch.allclose(decode(floats, "depth", spec), want, atol=1e-5)


@pytest.mark.parametrize(
    "chunk",
    [
        (b"gAMA", struct.pack(">I", 45455)),
        (b"sBIT", b"\x0c"),
        (b"tRNS", struct.pack(">H", 777)),
        (b"sRGB", b"\0"),
        (b"bKGD", struct.pack(">H", 9)),
    ],
)
@pytest.mark.parametrize("interlaced", [False, True])
def test_png_chunks_change_no_number(chunk, interlaced):
    values = numbers("u2")
    values[0, 0] = 777
    assert same(png(values, before=[chunk], interlaced=interlaced), values)


def jpeg2000(values: np.ndarray, bits: int) -> bytes:
    """Return a lossless grey JPEG 2000 of 9 to 16 bits, written by FFmpeg."""
    height, width = values.shape
    kind = f"gray{bits}le"
    codec = av.CodecContext.create("jpeg2000", "w")
    codec.width, codec.height, codec.pix_fmt, codec.time_base = width, height, kind, Fraction(1)
    codec.options = {"pred": "1"}
    frame = av.VideoFrame(width, height, kind)
    rows = np.zeros((height, frame.planes[0].line_size // 2), np.uint16)
    rows[:, :width] = values
    frame.planes[0].update(rows.tobytes())
    return b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)])


@pytest.mark.parametrize("bits", [9, 10, 12, 14, 16])
def test_jpeg_2000_is_not_scaled(bits):
    values = numbers("u2") >> 16 - bits
    data = jpeg2000(values, bits)
    assert same(data, values)


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<i4", ">i4", "<f2", ">f2", "<f4", ">f4", "<f8", ">f8", "|u1", "<i8"])
@pytest.mark.parametrize("fortran", [False, True])
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_npy(dtype, fortran, version):
    values = numbers("f4").astype(dtype)
    data = io.BytesIO()
    np.lib.format.write_array(data, np.asfortranarray(values) if fortran else values, version=version)
    check(data.getvalue(), "depth")
    assert np.array_equal(read_plane(data.getvalue(), plain("depth")), values)


def test_a_disparity_of_8_bits_keeps_its_numbers():
    values = numbers("u2").astype(np.uint8)
    for data in (
        tiff(values),
        tiff(values, photometric=WHITE_IS_ZERO, compression=DEFLATE, **TILES),
        png(values, bits=8),
    ):
        assert same(data, values, depth_kind="disparity")


def structured() -> bytes:
    data = io.BytesIO()
    np.save(data, np.ones((4, 4), [("z", "<f4"), ("quality", "<u1")]))
    return data.getvalue()


@pytest.mark.parametrize(
    "made, words",
    [
        (lambda: tiff(numbers("u2").astype(np.uint8)), "8 bits, not a depth map: use 16-bit grey PNG"),
        (lambda: png(numbers("u2") >> 8, bits=8), "mode L, not a depth map: use 16-bit grey PNG"),
        (lambda: tiff(np.ones((8, 8, 3), np.uint8), photometric=RGB), "3 channels, not a depth map: use 16-bit"),
        (lambda: png(np.ones((8, 8, 3), int), bits=8), "mode RGB, not a depth map: use 16-bit grey PNG"),
        (lambda: png(np.ones((8, 8, 3), int)), "mode RGB, not a depth map: use 16-bit grey PNG"),
        (lambda: tiff(np.ones((8, 8, 2), np.float32)), "2 channels, not a depth map: use 16-bit"),
        (lambda: tiff(np.ones((8, 8, 4), np.uint16), photometric=CMYK), "4 channels, not a depth map"),
        (
            lambda: tiff(np.ones((8, 8), np.uint16), photometric=PALETTE, tags={320: (SHORT, [9] * 3 * 65536)}),
            "a palette, not a depth map",
        ),
        (lambda: tiff(np.ones((8, 8), np.uint16))[:-40], "cut short"),
        (structured, "one plane of numbers"),
    ],
)
def test_what_is_refused(made, words):
    for work in (check, decode):
        with pytest.raises(MediaError, match=words):
            work(made(), "depth")
