"""Hostile names and files: they reach no other file, network or program, load no pickle, and do not run for ever."""

from __future__ import annotations

import io
import os
import socket
import struct
import threading
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from mmcl_fast.errors import MediaError
from mmcl_fast.media import MODALITIES, check, decode, sniff
from tests.media.files import plain
from tests.media.originals import clip, recording, saved, scene, written
from tests.media.trial import memory, reset_peak_memory

WORKS = (decode, check)


@pytest.mark.parametrize(
    "name",
    [
        "-i.mp4",
        "concat:a.mp4",
        "data:image.mp4",
        "http:__x.mp4",
        "per%d%%s.mp4",
        "~.mp4",
        "new\nline.mp4",
        "two  spaces.mp4",
        "\x1b[31m.mp4",
        "*?[x].mp4",
        b"\xff\xfe.mp4",
    ],
)
def test_any_name_is_only_a_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(name)
    files = [
        ("video", clip("mp4", "mpeg4", 3)),
        ("audio", written("WAV")),
        ("audio", recording("ipod", "aac")),
        ("image", saved(scene(), "PNG")),
        ("text", b"some words"),
    ]
    for modality, data in files:
        for path in (name, tmp_path / name):
            Path(path).write_bytes(data)
            decode(path, modality)
            check(path, modality)
            assert sniff(path) == modality
            with pytest.raises(MediaError) as caught:
                decode(path, "depth")
            line = str(caught.value)
            assert line.isprintable() and ".mp4: " in line
            assert line.startswith(f"{path}: ") or not str(path).isprintable()
    assert os.listdir() == [name]


@pytest.mark.parametrize("suffix", ["raw", "vox", "gsm", "sd2", "au"])
def test_a_suffix_makes_no_sound_of_what_is_none(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(saved(scene(), "PNG"))
    with pytest.raises(MediaError, match="its content is image"):
        decode(path, "audio")
    path.write_bytes(written("WAV"))
    check(path, "audio")
    decode(path, "audio")


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.png"))
        for path in (tmp_path / "pipe.wav", tmp_path / "socket.png", tmp_path, Path("/dev/zero")):
            for modality in MODALITIES:
                for work in (lambda: decode(path, modality), lambda: check(path, modality), lambda: sniff(path)):
                    with pytest.raises(MediaError, match="not a regular file: check the path"):
                        work()
    for path in (tmp_path / "a\0b.png", "a\0b.png"):
        for work in (lambda: decode(path, "image"), lambda: sniff(path)):
            with pytest.raises(MediaError, match="x00b.png: a name cannot hold a zero byte"):
                work()


@pytest.fixture
def listener():
    """Return a port, and the list of its connections."""
    came: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def wait() -> None:
            try:
                while True:
                    server.accept()[0].close()
                    came.append("a connection")
            except OSError:
                pass

        threading.Thread(target=wait, daemon=True).start()
        yield server.getsockname()[1], came


def test_lists_and_documents_reach_for_nothing(tmp_path, listener):
    port, came = listener
    url = f"http://127.0.0.1:{port}/x"
    (tmp_path / "other.ts").write_bytes(clip("mpegts", "mpeg4", 3))
    (tmp_path / "other.mp4").write_bytes(clip("mp4", "mpeg4", 3))
    documents = {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{tmp_path}/other.ts\n#EXT-X-ENDLIST\n",
        "hls-url": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}.ts\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile '{tmp_path}/other.mp4'\n",
        "sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n"
        "a=rtpmap:96 H264/90000\n",
        "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
        f'<Representation id="1" mimeType="video/mp4"><BaseURL>{url}.mp4</BaseURL></Representation>'
        "</AdaptationSet></Period></MPD>",
        "svg": '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
        f'<image xlink:href="{url}.png" width="9" height="9"/></svg>',
        "eps": "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n%%EOF\n",
    }
    for name, content in documents.items():
        for suffix, modality in (
            (".mp4", "video"),
            (".ts", "video"),
            (".m3u8", "video"),
            (".wav", "audio"),
            (".png", "image"),
            (".eps", "image"),
            (".tiff", "depth"),
        ):
            path = tmp_path / f"{name}{suffix}"
            path.write_text(content)
            for source in (path, content.encode()):
                for work in WORKS:
                    with pytest.raises(MediaError, match="its content is text"):
                        work(source, modality)
    assert not came


class Touch:
    """An object that makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_arrays_are_never_unpickled_nor_their_headers_believed(tmp_path):
    data = io.BytesIO()
    np.save(data, np.array([[Touch(tmp_path / "made")]], dtype=object), allow_pickle=True)
    headers = [
        b"{'descr': '<f4', 'fortran_order': False, 'shape': %s, }" % shape
        for shape in (b"(3, -3)", b"(99999999, 99999999)", b"(10 ** 9, 10 ** 9)", b"(" * 3000, b"()", b"(0, 3)")
    ]
    files = [data.getvalue()]
    for header in headers:
        header = header.ljust((len(header) + 74) // 64 * 64 - 11) + b"\n"
        files.append(b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(64))
    for number, content in enumerate(files):
        for work in WORKS:
            with pytest.raises(MediaError):
                work(content, "depth")
        assert not (tmp_path / "made").exists(), number


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_what_unpacks_to_much_is_refused_before_it_does(tmp_path):
    """A process refuses files that claim more than its memory, and reads only the window of a huge recording."""
    bomb = zlib.compress(bytes(200_000_000), 9)

    def png(width: int, height: int, extra: bytes = b"") -> bytes:
        head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", bomb) + chunk(b"IEND", b"")

    for data in (
        png(50_000, 50_000),
        png(9, 9, chunk(b"zTXt", b"k\0\0" + bomb)),
        png(9, 9, chunk(b"iCCP", b"k\0\0" + bomb)),
    ):
        for work in WORKS:
            with pytest.raises(MediaError):
                work(data, "image")
    with soundfile.SoundFile(tmp_path / "long.flac", "w", 48000, 8) as file:
        for _ in range(60):
            file.write(np.zeros((48000 * 5, 8), np.int16))
    reset_peak_memory()
    before = memory("VmRSS")
    check(tmp_path / "long.flac", "audio")
    decode(tmp_path / "long.flac", "audio")
    assert memory("VmHWM") - before < 100_000  # kB; the whole recording has 460 MB


def test_frames_that_grow_on_the_way_are_held_to_the_limit():
    def h264(width: int, height: int) -> bytes:
        data = io.BytesIO()
        with av.open(data, "w", format="h264") as out:
            stream = out.add_stream("libx264", rate=25, options={"preset": "ultrafast", "tune": "zerolatency"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for number in range(4):
                out.mux(stream.encode(av.VideoFrame.from_image(scene(number, width, height))))
            out.mux(stream.encode(None))
        return data.getvalue()

    data, small = h264(64, 48) + h264(640, 480), plain("video", 16, frames=4, max_pixels=100_000)
    check(data, "video", plain("video", 16, frames=4))
    with pytest.raises(MediaError):
        check(data, "video", small)


@pytest.mark.parametrize("kind", ["TIFF", "AVIF", "PNG", "WEBP", "GIF"])
def test_a_still_picture_is_no_video(kind):
    with pytest.raises(MediaError, match="a still image, not a video: move it to the image modality"):
        decode(saved(scene(), kind), "video")


def test_a_cut_recording_fails_its_check(tmp_path):
    """The header states more samples; the samples that are there still decode."""
    for kind in ("WAV", "AIFF"):
        data = written(kind, "PCM_16")
        check(data, "audio")
        cut = data[: len(data) // 2]
        decode(cut, "audio")
        with pytest.raises(MediaError, match="ends after .* of .* bytes of audio: cut short, replace it"):
            check(cut, "audio")


def test_samples_beyond_reason_are_refused():
    data = io.BytesIO()
    soundfile.write(data, np.full(4000, 1e30, np.float32), 16000, format="WAV", subtype="FLOAT")
    with pytest.raises(MediaError, match=r"above 1e\+10"):
        decode(data.getvalue(), "audio")
    data = io.BytesIO()
    soundfile.write(data, np.zeros((4000, 65), np.float32), 16000, format="WAV")
    with pytest.raises(MediaError, match="65 channels: at most 64"):
        decode(data.getvalue(), "audio")


def test_the_smallest_pictures(tmp_path):
    for size in ((1, 1), (1, 3000), (3000, 1)):
        for resize in ("squash", "crop"):
            for kind in ("PNG", "JPEG", "GIF"):
                spec = plain("image", 16, resize=resize)
                assert decode(saved(Image.new("RGB", size, "red"), kind), "image", spec, view=2).shape == spec.shape
