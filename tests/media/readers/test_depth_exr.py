"""OpenEXR files by both decoders. The small ones are written here byte by byte, with any name and any broken header."""

import struct
import sys
import threading
import zlib
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from mmcl_fast.errors import MediaError
from mmcl_fast.media import check, decode, sniff
from mmcl_fast.media.readers.depth import exr as exr_reader
from mmcl_fast.media.readers.depth.exr import read_exr
from tests.media.files import plain

OpenEXR = pytest.importorskip("OpenEXR")
PLANE = np.random.default_rng(0).uniform(1, 4, (37, 21)).astype(np.float32)
SPEC = plain("depth", size=8)


@pytest.fixture(params=["OpenEXR", "FFmpeg"])
def decoder(request, monkeypatch) -> str:
    """Let ``read_exr`` use only this library."""
    monkeypatch.setattr(exr_reader, "_import_openexr", lambda: OpenEXR if request.param == "OpenEXR" else None)
    return request.param


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
    """Return a file of rows; compression 0: none, 2: ZIPS, 3: ZIP."""
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
def test_the_channel_of_depth_bit_for_bit(planes, wanted, compression, decoder):
    data = exr({name: PLANE if name == wanted else np.full_like(PLANE, 9) for name in planes}, compression=compression)
    assert np.array_equal(read_exr(data, SPEC), PLANE)


def test_half_floats_and_what_is_not_finite(decoder):
    plane = PLANE.copy()
    plane[0, :4] = 0, np.nan, np.inf, -1
    assert np.array_equal(read_exr(exr({"Z": plane}), SPEC), plane, equal_nan=True)
    half = read_exr(exr({"Z": PLANE.astype(np.float16)}), SPEC)
    assert half.dtype == np.float16 and np.array_equal(half, PLANE.astype(np.float16))


def test_an_exr_is_its_npy(tmp_path, decoder):
    (tmp_path / "a.exr").write_bytes(exr({"Z": PLANE}))
    np.save(tmp_path / "a.npy", PLANE)
    assert sniff(tmp_path / "a.exr") == "depth"
    check(tmp_path / "a.exr", "depth")
    assert torch.equal(decode(tmp_path / "a.exr", "depth", SPEC), decode(tmp_path / "a.npy", "depth", SPEC))


def test_what_ffmpeg_writes(decoder):
    encoder = av.CodecContext.create("exr", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 21, 37, "grayf32le", Fraction(1)
    packets = encoder.encode(av.VideoFrame.from_ndarray(PLANE, format="grayf32le")) + encoder.encode(None)
    assert np.array_equal(read_exr(bytes(packets[0]), SPEC), PLANE)


def test_the_data_window_lies_within_the_display_window(decoder):
    got = read_exr(exr({"Z": PLANE}, window=(10, 5, 30, 41), display=(0, 0, 99, 79)), SPEC)
    assert got.shape == (80, 100) and np.array_equal(got[5:42, 10:31], PLANE) and got.sum() == got[5:42, 10:31].sum()


def write_by_openexr(
    channels, compression=OpenEXR.ZIP_COMPRESSION, *, tile=None, window=None, display=None, tmp_path, parts=None
) -> bytes:
    """Return a file by the library's writer. ``parts``: {name: channels} of several parts, in place of ``channels``."""

    def header():
        found = {"compression": compression, "type": OpenEXR.scanlineimage}
        for name, box in (("dataWindow", window), ("displayWindow", display)):
            if box:
                found[name] = np.array(box[:2], np.int32), np.array(box[2:], np.int32)
        if tile:
            found |= {"type": OpenEXR.tiledimage, "tiles": OpenEXR.TileDescription()}
            found["tiles"].xSize, found["tiles"].ySize = tile
        return found

    if parts:
        file = OpenEXR.File([OpenEXR.Part(header(), planes, name) for name, planes in parts.items()])
    else:
        file = OpenEXR.File(header(), channels)
    file.write(str(tmp_path / "written.exr"))
    return (tmp_path / "written.exr").read_bytes()


def read_by_both(data: bytes, monkeypatch) -> list:
    """Return the result of each library for a file: an array, or the message of the error."""
    found: list = []
    for library in (OpenEXR, None):
        monkeypatch.setattr(exr_reader, "_import_openexr", lambda library=library: library)
        try:
            found.append(read_exr(data, SPEC))
        except MediaError as error:
            found.append(str(error))
    return found


BOTH = ("NO", "RLE", "ZIPS", "ZIP", "PIZ", "PXR24", "B44", "B44A")
LOSSY = ("PXR24", "B44", "B44A", "DWAA", "DWAB")


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("tile", [None, (16, 16), (64, 8)])
@pytest.mark.parametrize("compression", BOTH)
def test_both_decoders_give_the_same_values(compression, tile, dtype, tmp_path, monkeypatch):
    noise = np.random.default_rng(1).uniform(0, 0.1, (67, 53))  # B44 is coarse where neighbours differ much
    plane = (np.linspace(1, 4, 67 * 53).reshape(67, 53) + noise).astype(dtype)
    data = write_by_openexr({"Z": plane}, getattr(OpenEXR, f"{compression}_COMPRESSION"), tile=tile, tmp_path=tmp_path)
    by_openexr, by_ffmpeg = read_by_both(data, monkeypatch)
    assert by_openexr.dtype == by_ffmpeg.dtype == dtype and np.array_equal(by_openexr, by_ffmpeg)
    assert np.allclose(by_openexr, plane, rtol=0.1) if compression in LOSSY else np.array_equal(by_openexr, plane)


WINDOWS = [
    ((0, 0, 52, 66), (0, 0, 52, 66)),
    ((5, 7, 57, 73), (5, 7, 57, 73)),
    ((-9, -4, 43, 62), (-9, -4, 43, 62)),
    ((10, 5, 62, 71), (0, 0, 99, 99)),
    ((-10, -5, 42, 61), (0, 0, 20, 20)),
    ((5, 5, 57, 71), (10, 20, 40, 50)),
    ((9, 20, 61, 86), (4, 4, 90, 90)),
    ((200, 5, 252, 71), (0, 0, 30, 30)),
    ((-300, -5, -248, 61), (0, 0, 30, 30)),
]


@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("window, display", WINDOWS)
def test_the_display_window_wherever_it_lies(window, display, tile, tmp_path, monkeypatch):
    plane = np.random.default_rng(2).uniform(1, 4, (67, 53)).astype(np.float32)
    data = write_by_openexr({"Z": plane}, window=window, display=display, tile=tile, tmp_path=tmp_path)
    canvas = np.zeros((1000, 1000), np.float32)  # pixel (0, 0) of the file lies at (500, 500)
    canvas[500 + window[1] : 501 + window[3], 500 + window[0] : 501 + window[2]] = plane
    wanted = canvas[500 + display[1] : 501 + display[3], 500 + display[0] : 501 + display[2]]
    assert all(np.array_equal(found, wanted) for found in read_by_both(data, monkeypatch))


@pytest.mark.parametrize("compression", ["DWAA", "DWAB", "HTJ2K32", "HTJ2K256", "ZSTD"])
def test_compressions_that_only_openexr_reads(compression, tmp_path, monkeypatch):
    ramp = np.linspace(1, 4, 67 * 53, dtype=np.float32).reshape(67, 53)
    data = write_by_openexr({"Z": ramp}, getattr(OpenEXR, f"{compression}_COMPRESSION"), tmp_path=tmp_path)
    by_openexr, by_ffmpeg = read_by_both(data, monkeypatch)
    assert np.allclose(by_openexr, ramp, rtol=0.02)
    assert by_ffmpeg == (
        "an OpenEXR file with DWA or a newer compression: pip install 'mmcl-fast[exr]', "
        "or save the depth as one float channel named Z, compressed with ZIP"
    )


def test_whole_numbers_and_names_of_two_letters_need_openexr(tmp_path, monkeypatch):
    numbers = np.arange(37 * 21, dtype=np.uint32).reshape(37, 21)
    by_openexr, by_ffmpeg = read_by_both(exr({"Z": numbers}), monkeypatch)
    assert by_openexr.dtype == np.uint32 and np.array_equal(by_openexr, numbers)
    assert "holds whole numbers: pip install" in by_ffmpeg
    by_openexr, by_ffmpeg = read_by_both(exr({"dz": PLANE}), monkeypatch)
    assert np.array_equal(by_openexr, PLANE) and "'dz' has a name of two letters: pip install" in by_ffmpeg


def test_of_several_parts_the_one_with_the_depth(tmp_path, monkeypatch):
    other = np.full_like(PLANE, 9)
    parts = {"colour": {"R": other, "G": other}, "depth": {"Z": PLANE, "N": other}, "right": {"Z": other}}
    data = write_by_openexr(None, parts=parts, tmp_path=tmp_path)
    by_openexr, by_ffmpeg = read_by_both(data, monkeypatch)
    assert np.array_equal(by_openexr, PLANE)
    assert "an OpenEXR file with several parts: pip install" in by_ffmpeg
    (tmp_path / "a.exr").write_bytes(data)
    monkeypatch.setattr(exr_reader, "_import_openexr", lambda: OpenEXR)
    assert sniff(tmp_path / "a.exr") == "depth"
    check(tmp_path / "a.exr", "depth")
    for cut in range(8, len(data) - 1, 97):
        with pytest.raises((MediaError, ValueError, IndexError, struct.error)):
            read_exr(data[:cut], SPEC)


def test_files_of_many_channels_or_strange_names_are_left_to_ffmpeg(monkeypatch):
    monkeypatch.setattr(OpenEXR, "File", lambda *_, **__: pytest.fail("read by OpenEXR"))
    many = {f"layer{i:02}.X": PLANE.astype(np.float16) for i in range(exr_reader.MOST_CHANNELS)} | {"Z": PLANE}
    strange = exr({"Z": PLANE, "abc": PLANE}).replace(b"abc\0", b"ab\xff\0", 1)
    for data in (exr(many), strange):
        assert all(np.array_equal(found, PLANE) for found in read_by_both(data, monkeypatch))


def test_all_channels_together_have_a_limit(tmp_path, monkeypatch):
    layers = {f"layer{i:02}.X": PLANE for i in range(exr_reader.MOST_CHANNELS)} | {"Z": PLANE}
    data = write_by_openexr(None, parts={"a": {"Z": PLANE}, "b": layers}, tmp_path=tmp_path)
    spec = plain("depth", max_pixels=PLANE.size)
    with pytest.raises(MediaError, match=r"numbers in all channels, the limit is 16 times max_pixels"):
        read_exr(data, spec)


def test_openexr_notices_damage_inside_a_chunk_and_stdout_stays_clean(tmp_path, capsys):
    ramp = np.linspace(1, 4, 67 * 53, dtype=np.float32).reshape(67, 53)
    data = bytearray(exr({"Z": ramp}))
    data[-200:-100] = bytes(100)
    (tmp_path / "a.exr").write_bytes(data)
    stdout = sys.stdout
    with pytest.raises(MediaError, match="a.exr: an OpenEXR file that is damaged"):
        decode(tmp_path / "a.exr", "depth")
    assert sys.stdout is stdout and capsys.readouterr().out == ""


def test_other_threads_still_print_while_a_file_is_decoded(capsys):
    with exr_reader._silence_stdout():
        print("from here")
        thread = threading.Thread(target=print, args=("from another thread",))
        thread.start()
        thread.join()
    print("afterwards")
    assert capsys.readouterr().out == "from another thread\nafterwards\n"


@pytest.mark.parametrize(
    "data, part",
    [
        (exr({"Z": PLANE}, flags=0x1000), "cannot be decoded|without"),
        (exr({"Z": PLANE}, flags=0x800), "deep data: save the depth as one float channel"),
        (exr({"Z": PLANE}, sampling=2), "subsampled"),
        (exr({"Q": PLANE, "U": PLANE}), "channels Q, U, none of which is depth"),
        (exr({"Z": PLANE}, display=(0, 0, 99_999, 99_999)), "100000 x 100000 pixels, the limit is"),
        (exr({"Z": PLANE}, window=(0, 0, 2**31 - 1, 2**31 - 1)), "the limit is"),
        (exr({"Z": PLANE}, window=(5, 0, 4, 9)), "0 x 10 pixels"),
        (exr({"Z": PLANE}, window=(0, 0, 9000, 9000)), "cut short"),
        (exr({"Z": PLANE})[:-1], "cut short"),
        (exr({"Z": PLANE})[:300], "cut short"),
        (exr({"Z": PLANE})[:60], "cannot be decoded|without"),
        (b"\x76\x2f\x31\x01", "cut short"),
        (exr({"Z": np.zeros_like(PLANE)}), "no valid pixel"),
    ],
)
def test_refusals(data, part, tmp_path, decoder):
    (tmp_path / "a.exr").write_bytes(data)
    with pytest.raises(MediaError, match=f"a.exr: .*({part})") as caught:
        decode(tmp_path / "a.exr", "depth")
    assert "\n" not in str(caught.value)
