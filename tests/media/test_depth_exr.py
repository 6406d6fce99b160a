"""OpenEXR: written here chunk by chunk, so that channel names and lies in the header are ours."""

import struct
import zlib
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from mmcl_fast.errors import MediaError
from mmcl_fast.media import check, decode, sniff
from mmcl_fast.media.readers.depth.exr import read_exr
from tests.media.files import plain

PLANE = np.random.default_rng(0).uniform(1, 4, (37, 21)).astype(np.float32)
SPEC = plain("depth", size=8)


def attribute(name: str, kind: str, value: bytes) -> bytes:
    return name.encode() + b"\0" + kind.encode() + b"\0" + struct.pack("<I", len(value)) + value


def exr(
    planes: dict[str, np.ndarray],
    *,
    compression: int = 3,
    flags: int = 0,
    window=None,
    display=None,
    kind: int | None = None,
    sampling: int = 1,
) -> bytes:
    """A scanline file; 0: uncompressed, 2: ZIPS, 3: ZIP."""
    names = sorted(planes)
    height, width = planes[names[0]].shape
    types = {np.dtype(np.uint32): 0, np.dtype(np.float16): 1, np.dtype(np.float32): 2}
    channels = (
        b"".join(
            name.encode()
            + b"\0"
            + struct.pack("<4i", types[planes[name].dtype] if kind is None else kind, 0, sampling, sampling)
            for name in names
        )
        + b"\0"
    )
    box = window or (0, 0, width - 1, height - 1)
    header = (
        b"\x76\x2f\x31\x01"
        + struct.pack("<I", 2 | flags)
        + b"".join(
            [
                attribute("channels", "chlist", channels),
                attribute("compression", "compression", bytes([compression])),
                attribute("dataWindow", "box2i", struct.pack("<4i", *box)),
                attribute("displayWindow", "box2i", struct.pack("<4i", *(display or box))),
                attribute("lineOrder", "lineOrder", b"\0"),
                attribute("pixelAspectRatio", "float", struct.pack("<f", 1)),
                attribute("screenWindowCenter", "v2f", bytes(8)),
                attribute("screenWindowWidth", "float", bytes(4)),
            ]
        )
        + b"\0"
    )
    lines = 16 if compression == 3 else 1
    chunks = []
    for y in range(0, height, lines):
        raw = b"".join(planes[name][row].tobytes() for row in range(y, min(y + lines, height)) for name in names)
        if compression:
            halves = np.frombuffer(raw[::2] + raw[1::2], np.uint8).astype(np.int16)
            halves[1:] = halves[1:] - halves[:-1] + 128
            packed = zlib.compress(halves.astype(np.uint8).tobytes())
            raw = packed if len(packed) < len(raw) else raw
        chunks.append(struct.pack("<2i", y + box[1], len(raw)) + raw)
    places = np.cumsum([len(header) + 8 * len(chunks)] + [len(chunk) for chunk in chunks[:-1]])
    return header + places.astype("<u8").tobytes() + b"".join(chunks)


@pytest.mark.parametrize("compression", [0, 2, 3])
@pytest.mark.parametrize(
    "planes, wanted",
    [
        (["Z"], "Z"),
        (["Y"], "Y"),
        (["V"], "V"),
        (["R"], "R"),
        (["Depth"], "Depth"),
        (["A", "B", "G", "R", "Z"], "Z"),
        (["R", "G", "B", "View.Depth.Z"], "View.Depth.Z"),
        (["A", "Y"], "Y"),
        (["R", "G", "B"], "R"),
        (["disparity", "B", "G", "R"], "disparity"),
    ],
)
def test_the_channel_of_depth_bit_for_bit(planes, wanted, compression):
    data = exr({name: PLANE if name == wanted else np.full_like(PLANE, 9) for name in planes}, compression=compression)
    assert np.array_equal(read_exr(data, SPEC), PLANE)


def test_half_floats_and_what_is_not_finite():
    plane = PLANE.copy()
    plane[0, :4] = 0, np.nan, np.inf, -1
    assert np.array_equal(read_exr(exr({"Z": plane}), SPEC), plane, equal_nan=True)
    half = read_exr(exr({"Z": PLANE.astype(np.float16)}), SPEC)
    assert half.dtype == np.float16 and np.array_equal(half, PLANE.astype(np.float16))


def test_an_exr_is_its_npy(tmp_path):
    (tmp_path / "a.exr").write_bytes(exr({"Z": PLANE}))
    np.save(tmp_path / "a.npy", PLANE)
    assert sniff(tmp_path / "a.exr") == "depth"
    check(tmp_path / "a.exr", "depth")
    assert torch.equal(decode(tmp_path / "a.exr", "depth", SPEC), decode(tmp_path / "a.npy", "depth", SPEC))


def test_what_ffmpeg_writes():
    encoder = av.CodecContext.create("exr", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 21, 37, "grayf32le", Fraction(1)
    packets = encoder.encode(av.VideoFrame.from_ndarray(PLANE, format="grayf32le")) + encoder.encode(None)
    assert np.array_equal(read_exr(bytes(packets[0]), SPEC), PLANE)


def test_the_data_window_lies_within_the_display_window():
    got = read_exr(exr({"Z": PLANE}, window=(10, 5, 30, 41), display=(0, 0, 99, 79)), SPEC)
    assert got.shape == (80, 100) and np.array_equal(got[5:42, 10:31], PLANE) and got.sum() == got[5:42, 10:31].sum()


@pytest.mark.parametrize(
    "data, part",
    [
        (exr({"Z": PLANE}, flags=0x1000), "several parts or deep data: save the depth as one float channel"),
        (exr({"Z": PLANE}, flags=0x800), "several parts or deep data"),
        (exr({"Z": PLANE.astype(np.uint32)}), "whole numbers"),
        (exr({"Z": PLANE}, sampling=2), "subsampled"),
        (exr({"dz": PLANE}), "two letters"),
        (exr({"Q": PLANE, "U": PLANE}), "channels Q, U, none of which is depth"),
        (exr({"Z": PLANE}, compression=8), "DWA compression"),
        (exr({"Z": PLANE}, display=(0, 0, 99_999, 99_999)), "100000 x 100000 pixels, the limit is"),
        (exr({"Z": PLANE}, window=(0, 0, 2**31 - 1, 2**31 - 1)), "the limit is"),
        (exr({"Z": PLANE}, window=(5, 0, 4, 9)), "0 x 10 pixels"),
        (exr({"Z": PLANE}, window=(0, 0, 9000, 9000)), "cut short"),
        (exr({"Z": PLANE})[:-1], "cut short"),
        (exr({"Z": PLANE})[:300], "cut short"),
        (exr({"Z": PLANE})[:60], "cannot be decoded|without"),
        (b"\x76\x2f\x31\x01", "several parts"),
        (exr({"Z": np.zeros_like(PLANE)}), "no valid pixel"),
    ],
)
def test_refusals(data, part, tmp_path):
    (tmp_path / "a.exr").write_bytes(data)
    with pytest.raises(MediaError, match=f"a.exr: .*({part})") as caught:
        decode(tmp_path / "a.exr", "depth")
    assert "\n" not in str(caught.value)
