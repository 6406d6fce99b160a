"""PNG images of every kind give the colours of the numbers that were written."""

from __future__ import annotations

import struct
import zlib

import pytest

from mmcl_fast.errors import MediaError
from mmcl_fast.media import check, decode
from tests.media.files import plain
from tests.media.layouts import SIDE, assert_close, decode_at_own_size, expected_colours, numbers, orient
from tests.media.png_files import exif, png

PNG_KINDS = {1: "grey", 2: "grey, alpha", 3: "rgb", 4: "rgb, alpha"}


@pytest.mark.parametrize("samples", PNG_KINDS)
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_png_of_16_bits(samples, interlaced, orientation):
    values = numbers(16, samples)
    want = orient(expected_colours(values, 16, PNG_KINDS[samples]), orientation)
    for place in ("before", "after"):
        assert_close(png(values, interlaced=interlaced, **{place: [exif(orientation)]}), want, 16)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("interlaced", [False, True])
def test_png_of_8_bits_and_less(bits, interlaced):
    values, want = numbers(bits, 1), None
    for orientation in (1, 6):
        want = orient(expected_colours(values, bits, "grey"), orientation)
        assert_close(png(values, bits=bits, interlaced=interlaced, after=[exif(orientation)]), want, 8)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("samples", [1, 3])
def test_png_with_a_transparent_colour(bits, samples):
    """Pixels of exactly the colour of tRNS are transparent, so white; the low byte of 16 bits counts."""
    if samples == 3 and bits < 8:
        return  # there is no such PNG
    values = numbers(bits, samples)
    clear = values[3, 4].copy()
    near = clear.copy()
    near[0] ^= 1
    values[5, 6], values[7, 7] = clear, near
    data = png(values, bits=bits, before=[(b"tRNS", struct.pack(f">{samples}H", *clear.tolist()))])
    want = expected_colours(values, bits, PNG_KINDS[samples])
    want[(values == clear).all(-1)] = 1
    assert_close(data, want, bits)
    assert (decode_at_own_size(data)[3, 4] == 1).all() and (decode_at_own_size(data)[5, 6] == 1).all()


@pytest.mark.parametrize(
    "chunk", [(b"gAMA", struct.pack(">I", 100000)), (b"sRGB", b"\0"), (b"sBIT", bytes([12, 12, 12]))]
)
def test_png_chunks_that_say_more_of_the_colours_change_none(chunk):
    values = numbers(16, 3)
    assert_close(png(values, before=[chunk]), expected_colours(values, 16, "rgb"), 16)


@pytest.mark.parametrize("samples", PNG_KINDS)
def test_a_damaged_png_of_16_bits_is_refused(samples):
    data = png(numbers(16, samples))
    for bad in (data[:-20], data[: len(data) // 2], data[:200] + bytes([data[200] ^ 64]) + data[201:]):
        for work in (check, decode):
            with pytest.raises(MediaError):
                work(bad, "image", plain(size=SIDE))


EXIF = exif(6)[1]
XMP = b'XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta tiff:Orientation="6"/>'
PROFILE = b"\nexif\n%8d\n%s\n" % (6 + len(EXIF), (b"Exif\0\0" + EXIF).hex().encode())


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize(
    "name, content, orientation",
    [
        (b"eXIf", EXIF, 6),
        (b"eXIf", b"Exif\0\0" + EXIF, 6),
        (b"eXIf", b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0", 6),
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(PROFILE), 6),
        (b"iTXt", XMP, 6),
        (b"eXIf", b"garbage", 1),
        (b"eXIf", b"", 1),
        (b"eXIf", EXIF[:9], 1),
        (b"eXIf", exif(0)[1], 1),
        (b"eXIf", exif(9)[1], 1),
    ],
)
def test_where_a_png_states_its_orientation(bits, place, name, content, orientation):
    """Broken EXIF does not turn the image, and is no reason to refuse it."""
    values = numbers(bits, 3)
    want = orient(expected_colours(values, bits, "rgb"), orientation)
    assert_close(png(values, bits=bits, **{place: [(name, content)]}), want, bits)
