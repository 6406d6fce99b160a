"""The choice of files for DALI from their headers, with or without DALI installed."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from mmcl_fast.media.dsp.views import View
from mmcl_fast.media.engines.dali.routes import MAX_WINDOWS, ROUTES
from tests.media.files import counting_video, jpeg, plain, png16, quarters, tone
from tests.media.png_files import exif, png


def find_route(source, modality: str, gpu: bool = False, **values):
    """Return the feed as the engine gets it; None if the CPU backend decodes the file."""
    try:
        return ROUTES[modality](source, plain(modality, **values), View(), gpu)
    except Exception:
        return None


def saved(image: Image.Image, kind: str, **options) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def turned(kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(quarters(), kind, exif=exif)


def bmp32(image: Image.Image) -> bytes:
    """Return a BMP of 32 bits a pixel with an unused channel."""
    data, pixels = saved(image, "BMP"), np.pad(np.asarray(image)[::-1, :, ::-1], ((0, 0), (0, 0), (0, 1))).tobytes()
    return b"BM" + struct.pack("<I", 54 + len(pixels)) + data[6:28] + b"\x20\0" + data[30:54] + pixels


GOOD = {
    "jpeg": jpeg(quarters()),
    "progressive": jpeg(quarters(), progressive=True),
    "grey jpeg": jpeg(quarters().convert("L")),
    "turned jpeg": turned("JPEG"),
    "zeros behind": jpeg(quarters()) + bytes(9),
    "png": saved(quarters(), "PNG"),
    "grey png": saved(quarters().convert("L"), "PNG"),
    "bmp": saved(quarters(), "BMP"),
    "webp": saved(quarters(), "WEBP"),
    "lossless webp": saved(quarters(), "WEBP", lossless=True),
}
OTHERS = {
    "cut jpeg": jpeg(quarters())[:-2],
    "cmyk": jpeg(quarters().convert("CMYK")),
    "palette": saved(quarters().quantize(4), "PNG"),
    "bilevel": saved(quarters().convert("1"), "PNG"),
    "alpha": saved(quarters().convert("RGBA"), "PNG"),
    "one transparent colour": saved(quarters(), "PNG", transparency=(255, 0, 0)),
    "16 bits of grey": saved(Image.fromarray(np.ones((8, 8), np.uint16)), "PNG"),
    "16 bits of colour": png16(np.zeros((8, 8, 3), np.uint16), "rgb48"),
    "turned png": turned("PNG"),
    "turned behind the pixels": png(np.zeros((8, 8, 3), int), bits=8, after=[exif(6)]),
    "bmp of 32 bits": bmp32(quarters()),
    "cut png": saved(quarters(), "PNG")[:-1],
    "cut bmp": saved(quarters(), "BMP")[:-1],
    "cut webp": saved(quarters(), "WEBP")[:-1],
    "webp with exif": turned("WEBP"),
    "animated webp": saved(quarters(), "WEBP", save_all=True, append_images=[Image.new("RGB", (64, 64))]),
    "animated png": saved(quarters(), "PNG", save_all=True, append_images=[Image.new("RGB", (64, 64))]),
    "gif": saved(quarters(), "GIF"),
    "tiff": saved(quarters(), "TIFF"),
    "text": b"no picture at all",
    "empty": b"",
}


@pytest.mark.parametrize("name", GOOD)
def test_pictures_for_dali(name):
    feed = find_route(GOOD[name], "image")
    assert feed.arrays[0].tobytes() == GOOD[name] and feed.cost == 64 * 64 * 3
    assert [a.tolist() for a in feed.arrays[1:]] == [[0, 0], [64, 64]]


@pytest.mark.parametrize("name", OTHERS)
def test_pictures_for_the_cpu_backend(name):
    assert find_route(OTHERS[name], "image") is None


def test_limits_hold_before_decoding():
    assert find_route(GOOD["png"], "image", max_pixels=4096) and not find_route(GOOD["png"], "image", max_pixels=4095)
    size = len(GOOD["png"])
    assert find_route(GOOD["png"], "image", max_bytes=size) and not find_route(GOOD["png"], "image", max_bytes=size - 1)


def test_the_region_is_of_the_upright_picture():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(Image.new("RGB", (40, 20)), "JPEG", exif=exif)
    feed = ROUTES["image"](data, plain(), View((0.0, 0.5, 0.25, 1.0), flip=True), False)
    assert [a.tolist() for a in feed.arrays[1:]] == [[20, 5], [40, 0]]  # (y, x); flipped: x backwards


def test_sound(tmp_path):
    for name, seconds, known in (
        ("a.wav", 1, True),
        ("a.flac", 1, True),
        ("a.ogg", 1, True),
        ("a.mp3", 1, False),
        ("a.aiff", 1, False),
        ("long.wav", 5 * MAX_WINDOWS + 1, False),
        ("none.wav", 0, False),
    ):
        soundfile.write(tmp_path / name, tone(440, 8000, seconds), 8000)
        feed = find_route(tmp_path / name, "audio")
        assert (feed is not None) == known, name
        if feed:
            assert feed.rate == 8000 and (feed.samples == 8000)
    assert find_route(tmp_path / "a.wav", "audio", max_seconds=0.5) is None


def test_depth():
    assert find_route(saved(Image.fromarray(np.ones((8, 8), np.uint16)), "PNG"), "depth").cost == 128
    data = io.BytesIO()
    np.save(data, np.ones((8, 8), np.float32))
    for other in (
        data.getvalue(),
        png(np.ones((8, 8), int), before=[exif(6)]),
        png(np.ones((8, 8), int), after=[exif(6)]),
        saved(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF"),
        GOOD["png"],
        saved(Image.fromarray(np.ones((8, 8), np.uint16)), "PNG")[:-1],
    ):
        assert find_route(other, "depth") is None


@pytest.mark.parametrize(
    "name, codec, cpu, gpu",
    [
        ("a.webm", "libvpx-vp9", True, True),
        ("a.mkv", "libvpx", True, True),
        ("a.mov", "mjpeg", True, True),
        ("a.mp4", "libvpx-vp9", True, True),
        ("a.mp4", "libx264", False, True),
        ("a.mkv", "libx265", False, True),
        ("a.mp4", "mpeg4", False, True),
        ("a.avi", "mjpeg", False, False),
        ("a.ts", "libx264", False, False),
    ],
)
def test_video_by_codec_and_container(tmp_path, name, codec, cpu, gpu):
    path = counting_video(tmp_path / name, 30, codec)
    for on_gpu, known in ((False, cpu), (True, gpu)):
        feed = find_route(path, "video", on_gpu, frames=4)
        assert (feed is not None) == known
        if feed:
            assert feed.arrays[1].tolist() == [3, 11, 18, 26] and feed.cost == 4 * 80 * 80 * 3


def test_video_frames_by_time(tmp_path):
    """With frames of unequal length the frame at the wanted time counts, not its share of the number of frames."""
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
        for number in range(20):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            frame.pts = number if number < 10 else 10 + 9 * (number - 10)  # of 25th seconds; the end is at 92
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert find_route(tmp_path / "a.mkv", "video", frames=4).arrays[1].tolist() == [10, 12, 15, 17]


def test_videos_for_the_cpu_backend(tmp_path):
    def clip(name: str, pix_fmt: str = "yuvj420p", rotation: int = 0) -> Path:
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream("mjpeg", rate=10)
            stream.width, stream.height, stream.pix_fmt = 96, 64, pix_fmt
            if rotation:
                stream.set_display_rotation(rotation)
            for _ in range(10):
                frame = av.VideoFrame.from_ndarray(np.zeros((64, 96, 3), np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return tmp_path / name

    good = clip("good.mov")
    assert find_route(good, "video")
    assert not find_route(clip("turned.mov", rotation=90), "video")
    assert not find_route(clip("other.mov", "yuvj444p"), "video")
    assert not find_route(good, "video", max_pixels=96 * 64 - 1)
    assert not find_route(good, "video", max_seconds=0.9)
    assert not find_route(good.read_bytes().replace(b"\x00\x60\x00\x40", b"\x00\x01\x00\x40"), "video")
    webm = counting_video(tmp_path / "a.webm", 30, "libvpx-vp9").read_bytes()
    assert find_route(webm, "video") and not find_route(webm[: len(webm) // 2], "video")
    assert not find_route(webm.replace(b"\xb0\x81\x50", b"\xb0\x81\x01"), "video")  # the header's width: 1


@pytest.mark.parametrize("name, codec", [("a.mov", "mjpeg"), ("a.mkv", "libvpx"), ("a.webm", "libvpx-vp9")])
def test_a_later_frame_of_another_size(tmp_path, name, codec):
    """It would make DALI's decoder without a GPU write beyond its buffer."""
    path = counting_video(tmp_path / name, 30, codec, gop=10)
    data = path.read_bytes()
    with av.open(str(path)) as container:
        keys = [bytes(packet) for packet in container.demux(video=0) if packet.is_keyframe and packet.size]
    assert len(keys) > 1 and find_route(data, "video")
    size = {"mjpeg": b"\0\x50\0\x50", "libvpx": b"\x50\0\x50\0"}.get(codec, keys[1][4:9])
    other = {"mjpeg": b"\0\x50\2\x50", "libvpx": b"\x50\2\x50\0"}.get(codec, bytes([size[0], size[1] | 1]) + size[2:])
    assert size in keys[1] and not find_route(data.replace(keys[1], keys[1].replace(size, other, 1)), "video")
