"""TIFF images of every layout give the colours of the numbers that were written."""

from __future__ import annotations

import io
import itertools
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from mmcl_fast.errors import MediaError
from mmcl_fast.media import check, decode, sniff
from mmcl_fast.media.dsp import cpp_kernels
from mmcl_fast.media.source import Slice
from tests.media.files import plain
from tests.media.layouts import (
    COMPRESSIONS,
    KINDS,
    SIDE,
    STRIPS,
    TILES,
    assert_close,
    decode_at_own_size,
    expected_colours,
    numbers,
    orient,
    premultiplied,
)
from tests.media.png_files import png
from tests.media.tiff_files import BYTE, CMYK, DEFLATE, LONG, LZW, NONE, PALETTE, SHORT, ZSTD, behind, tiff


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_layouts(kind, bits):
    """Every block, plane order, compression, predictor, byte order and offset size give the same colours."""
    photometric, samples, extra = KINDS[kind]
    values = numbers(bits, samples)
    if 1 in extra:
        values = premultiplied(values, bits)
    want = expected_colours(values, bits, kind)
    compressions = COMPRESSIONS if kind in ("grey", "rgb", "rgb, premultiplied") else (NONE, LZW, DEFLATE)
    count = 0
    for blocks, planar, compression, predictor, big_endian, big in itertools.product(
        (STRIPS, TILES), {False, samples > 1}, compressions, (1, 2), (False, True), (False, True)
    ):
        data = tiff(
            values,
            compression=compression,
            predictor=predictor,
            planar=planar,
            big_endian=big_endian,
            big=big,
            photometric=photometric,
            extra=extra,
            **blocks,
        )
        try:
            assert_close(data, want, bits)
        except (AssertionError, MediaError) as error:
            raise AssertionError(
                f"{blocks} {planar=} {compression=} {predictor=} {big_endian=} {big=}: {error}"
            ) from error
        count += 1
    check(data, "image", plain(size=SIDE))
    assert count == 16 * len(compressions) * (1 + (samples > 1))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", ["grey", "rgb", "rgb, alpha"])
def test_tiff_orientation(kind, bits, orientation):
    photometric, samples, extra = KINDS[kind]
    values = numbers(bits, samples)
    want = orient(expected_colours(values, bits, kind), orientation)
    for blocks, planar, big_endian in itertools.product((STRIPS, TILES), (False, True), (False, True)):
        data = tiff(
            values,
            orientation=orientation,
            planar=planar,
            big_endian=big_endian,
            photometric=photometric,
            extra=extra,
            **blocks,
        )
        assert_close(data, want, bits)


@pytest.mark.parametrize("words", ['tiff:Orientation="6"', "<tiff:Orientation>6</tiff:Orientation>"])
def test_tiff_orientation_in_xmp_alone(words):
    values = numbers(16, 3)
    xmp = {700: (BYTE, list(f"<x:xmpmeta {words}/>".encode()))}
    assert_close(tiff(values, tags=xmp, **TILES), orient(expected_colours(values, 16, "rgb"), 6), 16)
    assert_close(tiff(values, tags=xmp, orientation=3), orient(expected_colours(values, 16, "rgb"), 3), 16)


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 10, 12, 14])
@pytest.mark.parametrize("kind", ["grey", "white is zero", "rgb", "rgb, alpha"])
def test_tiff_of_packed_bits(kind, bits):
    photometric, samples, extra = KINDS[kind]
    values = numbers(bits, samples)
    want = expected_colours(values, bits, kind)
    for blocks, planar, compression, reverse in itertools.product(
        (STRIPS, TILES), (False, True), (NONE, LZW, DEFLATE), (False, True)
    ):
        data = tiff(
            values,
            bits=bits,
            planar=planar,
            compression=compression,
            reverse_bits=reverse,
            photometric=photometric,
            extra=extra,
            **blocks,
        )
        assert_close(data, want, bits)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("step", [257, 256, 1])
def test_tiff_palette(bits, step):
    """Palettes hold 16 bits, written as v x 257 or v x 256, or 8 bits by old writers."""
    values = numbers(bits, 1)
    colours = np.random.default_rng(5).integers(0, 256, (1 << bits, 3))
    if bits == 16 and step == 1:
        return  # then 16 bits are meant
    tags = {320: (SHORT, (colours.T * step).reshape(-1).tolist())}
    data = tiff(values, bits=bits, photometric=PALETTE, tags=tags, compression=LZW, **TILES)
    want = colours[values[..., 0]] / 255
    assert_close(data, want, 8)


def page(values: np.ndarray, kind: int | None = None, **options) -> bytes:
    """Return a page. ``kind``: NewSubfileType; 1 is a reduced copy of another page, 2 is one of several pages."""
    return tiff(values, tags={} if kind is None else {254: (LONG, [kind])}, **options)


@pytest.mark.parametrize("first, second, shown_first", [(None, None, True), (0, 1, True), (2, 2, True), (1, 0, False)])
def test_the_first_page_that_is_no_small_copy(first, second, shown_first):
    one, two = numbers(16, 3), numbers(16, 3, seed=1)
    data = behind(page(one, first, compression=DEFLATE), page(two, second, rows=5))
    assert_close(data, expected_colours(one if shown_first else two, 16, "rgb"), 16)


def test_a_small_copy_without_the_picture_is_the_picture():
    assert_close(page(numbers(8, 3), 1), expected_colours(numbers(8, 3), 8, "rgb"), 8)


def test_a_camera_s_raw_picture_is_refused_not_shown_small():
    raw = page(numbers(16, 1), 0, photometric=32803)
    with pytest.raises(MediaError, match="TIFF of 16 bits with compression 1 and a camera's filter: save it as PNG"):
        decode(behind(page(numbers(8, 3), 1), raw), "image", plain(size=SIDE))


def test_pages_in_a_circle_come_to_an_end():
    first = bytearray(page(numbers(16, 3), 1))
    (place,) = struct.unpack_from("<I", first, 4)
    (count,) = struct.unpack_from("<H", first, place)
    struct.pack_into("<I", first, place + 2 + 12 * count, place)
    assert_close(bytes(first), expected_colours(numbers(16, 3), 16, "rgb"), 16)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("blocks", [STRIPS, TILES], ids=["strips", "tiles"])
def test_a_tiff_that_is_cut_short_is_refused(compression, blocks):
    """The directory comes last in these files, so the stated length of the block is changed instead."""
    data = bytearray(tiff(numbers(16, 3), compression=compression, **blocks))
    (place,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, place)
    entries = {struct.unpack_from("<H", data, at)[0]: at for at in range(place + 2, place + 2 + 12 * count, 12)}
    offsets = entries[324 if blocks is TILES else 273]
    (where,) = struct.unpack_from("<I", data, offsets + 8)
    struct.pack_into("<I", data, where, len(data) - 5)  # the first block lies over the file's end
    for broken in (bytes(data), bytes(data[: place // 2])):
        for work in (check, decode):
            with pytest.raises(MediaError, match="cut short|ends|cannot be decoded"):
                work(broken, "image", plain(size=SIDE))


@pytest.mark.parametrize(
    "made, words",
    [
        (lambda: tiff(np.ones((SIDE, SIDE, 3), np.float32)), "floats of 32 bits has no fixed white: save it"),
        (lambda: tiff(np.ones((SIDE, SIDE, 3), np.float16)), "floats of 16 bits has no fixed white: save it"),
        (lambda: tiff(np.ones((SIDE, SIDE), np.int16)), "signed numbers of 16 bits has no fixed white: save it"),
        (lambda: tiff(np.ones((SIDE, SIDE, 3), np.uint32)), "whole numbers of 32 bits has no fixed white: save it"),
        (
            lambda: tiff(np.ones((SIDE, SIDE, 3), np.uint16), photometric=6),
            "16 bits with compression 1 and YCbCr: save it",
        ),
        (lambda: tiff(np.ones((SIDE, SIDE, 7), np.uint16), photometric=1), "7 channels and colours 1: save it as RGB"),
        (lambda: tiff(np.ones((SIDE, SIDE, 3), np.uint16), photometric=CMYK), "3 channels and colours 5: save it"),
        (lambda: tiff(np.ones((SIDE, SIDE), np.uint8), photometric=PALETTE), "palette of 1 numbers, not 768: save it"),
        (lambda: tiff(np.ones((SIDE, SIDE, 40), np.uint8)), "40 channels, the limit is 8"),
        (
            lambda: tiff(np.ones((SIDE, SIDE, 3), np.uint8), photometric=8),
            "TIFF of 8 bits with compression 1 and CIELab: save it",
        ),
        (lambda: tiff(np.ones((SIDE, SIDE, 3), np.uint8), photometric=6), "with compression 1 and YCbCr: save it"),
        (
            lambda: tiff(np.ones((SIDE, SIDE, 3), np.uint8), photometric=6, compression=LZW, big=True, big_endian=True),
            "big-endian BigTIFF of 8 bits with compression 5 and YCbCr: save it",
        ),
        (lambda: tiff_with(tiff(numbers(8, 3)), 259, 34712), "with JPEG 2000 and colours 2: save it as PNG"),
    ],
)
def test_tiffs_that_are_refused(made, words):
    for work in (check, decode):
        with pytest.raises(MediaError, match=words):
            work(made(), "image", plain(size=SIDE))


@pytest.mark.parametrize("blocks", [STRIPS, TILES], ids=["strips", "tiles"])
@pytest.mark.parametrize("compression, planar", [(NONE, False), (LZW, False), (LZW, True), (ZSTD, True)])
def test_tiff_of_ycbcr(compression, planar, blocks):
    y, x = np.mgrid[:SIDE, :SIDE] * 10
    want = np.stack([x, y, (x + y) // 2], -1).astype(np.uint8)
    values = np.asarray(Image.fromarray(want).convert("YCbCr"))
    tags = {530: (SHORT, [1, 1])}
    data = tiff(values, photometric=6, compression=compression, planar=planar, tags=tags, **blocks)
    assert np.abs(decode_at_own_size(data) * 255 - want).max() <= 3.01


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_tiff_with_jpeg_inside(mode):
    y, x = np.mgrid[:SIDE, :SIDE] * 10
    image = Image.fromarray(np.stack([x, y, (x + y) // 2], -1).astype(np.uint8)).convert(mode)
    file = io.BytesIO()
    image.save(file, "TIFF", compression="jpeg", quality=100)
    assert np.abs(decode_at_own_size(file.getvalue()) * 255 - np.asarray(image.convert("RGB"))).max() <= 4


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_tiff_of_a_fax(compression):
    black = np.random.default_rng(2).integers(0, 2, (SIDE, SIDE)).astype(bool)
    file = io.BytesIO()
    Image.fromarray(black).save(file, "TIFF", compression=compression)
    assert np.array_equal(decode_at_own_size(file.getvalue()), black[..., None].repeat(3, 2))


def tiff_with(data: bytes, tag: int, number: int) -> bytes:
    """Return a little-endian TIFF with another number in one field."""
    changed = bytearray(data)
    (place,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, place)
    for at in range(place + 2, place + 2 + 12 * count, 12):
        if struct.unpack_from("<H", data, at)[0] == tag:
            struct.pack_into("<H", changed, at + 8, number)
    return bytes(changed)


def test_a_tiff_with_too_many_pixels_is_refused_before_it_is_read():
    with pytest.raises(MediaError, match="24 x 24 pixels, the limit is 100: .* raise max_pixels"):
        decode(tiff(numbers(16, 3)), "image", plain(size=SIDE, max_pixels=100))


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(
    "dtype, bits, samples, kind",
    [
        ("u1", 8, 1, "image"),
        ("u2", 16, 1, "depth"),
        ("u2", 12, 1, "depth"),
        ("i2", 16, 1, "depth"),
        ("f2", 16, 1, "depth"),
        ("f4", 32, 1, "depth"),
        ("f8", 64, 1, "depth"),
        ("u2", 16, 3, "image"),
        ("u2", 16, 4, "image"),
    ],
)
def test_what_a_tiff_is(big_endian, big, dtype, bits, samples, kind):
    values = np.ones((SIDE, SIDE, samples), dtype)
    for blocks in (STRIPS, TILES):
        assert sniff(tiff(values, bits=bits, big_endian=big_endian, big=big, **blocks)) == kind


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_views_and_sources_are_those_of_a_png(tmp_path, monkeypatch, bits, resize):
    """Plain and random views of files, bytes and slices are equal to a PNG's, with and without the C++ kernels."""
    values = np.kron(numbers(bits, 3)[:8, :12], np.ones((5, 5, 1), np.uint8)).astype(numbers(bits, 3).dtype)
    data, spec = tiff(values, compression=LZW, **TILES), plain(size=16, resize=resize)
    (tmp_path / "a.tif").write_bytes(data)
    (tmp_path / "b.tar").write_bytes(b"x" * 100 + data + b"y" * 100)
    member = Slice(str(tmp_path / "b.tar"), 100, len(data), "a.tif")
    for view in (0, 1, 2):
        want = decode(png(values, bits=bits), "image", spec, view=view, key="k")
        for source in (data, tmp_path / "a.tif", member):
            assert torch.equal(decode(source, "image", spec, view=view, key="k"), want)
        with monkeypatch.context() as patch:
            patch.setattr(cpp_kernels, "kernels", lambda: None)
            plainly = decode(data, "image", spec, view=view, key="k")
        assert (plainly - want).abs().max() <= 2.01 / 255
