"""Recognition of files with an unusual beginning: junk, cuts, covers, boxes in another order, damage and noise."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from mmcl_fast.errors import MediaError
from mmcl_fast.media import MODALITIES, decode, sniff
from mmcl_fast.media.formats import HEAD
from mmcl_fast.media.readers.video.tracks import is_cover
from mmcl_fast.media.source import Slice, open_av
from tests.media.files import plain
from tests.media.format_files import PACKET, RATE, TONE, box, by_modality, films, id3_tag, sounds
from tests.media.originals import saved, scene, sealed_ogg, written
from tests.media.trial import spec_of


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def assert_recognised(data: bytes, modality: str) -> None:
    """Check that a file is recognised, and decodes as this modality."""
    assert sniff(data) == modality
    decode(data, modality, spec_of(modality))


APE_TAG = b"APETAGEX" + struct.pack("<IIII", 2000, 32, 0, 0xA0000000) + bytes(8)
JUNK = {
    "zeros": bytes(1500),
    "more zeros than the head holds": bytes(HEAD + 5000),
    "noise": noise(1500, 1),
    "an APE tag": APE_TAG,
    "an ID3v1 tag": b"TAG" + b"A title".ljust(125, b"\0"),
    "words": b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\n\r\n",
}


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("name", ["mp3", "mp2", "aac"])
def test_mpeg_sound_behind_junk(name, junk):
    assert_recognised(JUNK[junk] + sounds()[name], "audio")


def test_mpeg_sound_behind_odd_tags():
    tag = id3_tag(sounds()["id3.mp3"])
    assert tag.startswith(b"ID3") and 10 < len(tag) < 1000
    for start in (tag, tag * 2, bytes(100) + tag, APE_TAG + tag, tag + bytes(700)):
        for name in ("mp3", "aac"):
            assert_recognised(start + sounds()[name], "audio")
    assert_recognised(tag + sounds()["flac"], "audio")
    large = bytearray(tag)
    large[6:10] = 0, 0x10, 0, 0  # a tag of 256 KiB, as with a cover
    assert_recognised(bytes(large) + bytes((1 << 18) - len(tag) + 10) + sounds()["mp3"], "audio")


def test_mpeg_sound_from_the_middle_of_a_frame():
    for name in ("mp3", "mp2", "aac"):
        assert_recognised((sounds()[name] * 4)[250:], "audio")


@pytest.mark.parametrize("junk", ["zeros", "noise"])
@pytest.mark.parametrize("name", ["ts", "h264", "h265", "m1v", "m2v", "mpg", "vob"])
def test_a_stream_of_film_behind_junk(name, junk):
    assert_recognised(JUNK[junk] + films()[name], "video")


def test_a_transport_stream_from_the_middle_of_a_packet():
    for name in ("ts", "mpeg2.ts"):
        for cut in (40, PACKET + 77):
            assert_recognised(films()[name][cut:], "video")


def boxes(data: bytes) -> dict[bytes, bytes]:
    """Return the top-level boxes of a video by their kind."""
    found, place = {}, 0
    while place < len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        found[data[place + 4 : place + 8]] = data[place : place + size]
        place += size
    return found


@pytest.mark.parametrize("kind", [b"free", b"skip", b"wide", b"uuid", b"pnot", b"styp", b"sidx", b"junk", b"udta"])
def test_a_film_may_begin_with_any_box(kind):
    parts = boxes(films()["mp4"])
    others = films()["mp4"][len(parts[b"ftyp"]) :]
    want = decode(films()["mp4"], "video", spec_of("video"))
    data = box(kind, len(parts[b"ftyp"])) + others  # the places of the samples stay
    assert sniff(data) == "video"
    assert (decode(data, "video", spec_of("video")) == want).all()


def test_a_film_may_begin_with_its_samples_or_its_index():
    parts = boxes(films()["mp4"])
    assert next(iter(parts)) == b"ftyp"
    samples_first = b"".join(part for kind, part in parts.items() if kind != b"ftyp")
    assert sniff(samples_first) == "video"  # its offsets are wrong now, which does not change its format
    large = struct.pack(">I4sQ", 1, b"mdat", len(parts[b"mdat"]) + 8) + parts[b"mdat"][8:] + parts[b"moov"]
    assert sniff(large) == "video"
    fragments = films()["frag.mp4"]
    assert_recognised(fragments[len(boxes(fragments)[b"ftyp"]) :], "video")


def picture_block(data: bytes) -> bytes:
    """Return the picture block of FLAC and Ogg comments (RFC 9639, section 8.8) with a JPEG as front cover."""
    mime = b"image/jpeg"
    return struct.pack(">II", 3, len(mime)) + mime + bytes(4) + struct.pack(">IIIII", 32, 32, 24, 0, len(data)) + data


def ogg_with_cover(kind: str) -> bytes:
    """Return an Ogg recording with a cover in its comments, in base64 as players write it."""
    import base64

    data = written("OGG", kind, rate=16000)
    comment = b"METADATA_BLOCK_PICTURE=" + base64.b64encode(picture_block(saved(scene(0, 32, 32), "JPEG")))
    mark = b"OpusTags" if kind == "OPUS" else b"\x03vorbis"
    pages, out = data.split(b"OggS")[1:], b""
    for page in (b"OggS" + page for page in pages):
        if mark in page:
            header, lengths = page[:26], page[27 : 27 + page[26]]
            body, packets, size = page[27 + page[26] :], [], 0
            for length in lengths:
                size += length
                if length < 255:
                    packets.append(body[:size])
                    body, size = body[size:], 0
            vendor = struct.pack("<I", 4) + b"test"
            packets[0] = mark + vendor + struct.pack("<II", 1, len(comment)) + comment + b"\x01" * (kind != "OPUS")
            laced = b"".join(b"\xff" * (len(packet) // 255) + bytes([len(packet) % 255]) for packet in packets)
            page = header + bytes([len(laced)]) + laced + b"".join(packets)
        out += page
    return sealed_ogg(out)


def flac_with_cover() -> bytes:
    data = sounds()["flac"]
    block = picture_block(saved(scene(0, 32, 32), "JPEG"))
    size = 4 + int.from_bytes(data[5:8], "big")
    return data[: 4 + size] + bytes([6]) + len(block).to_bytes(3, "big") + block + data[4 + size :]


def mp3_with_cover() -> bytes:
    body = b"\0image/jpeg\0\x03\0" + saved(scene(0, 32, 32), "JPEG")
    frame = b"APIC" + struct.pack(">I", len(body)) + bytes(2) + body
    size = len(frame)
    return b"ID3\3\0\0" + bytes(size >> shift & 127 for shift in (21, 14, 7, 0)) + frame + sounds()["mp3"]


def muxed_cover(container: str, codec: str, sound_first: bool) -> bytes:
    """Return a container with a recording and an image that is marked as attached."""
    data = io.BytesIO()
    with av.open(data, "w", format=container) as out:
        track = out.add_stream(codec, rate=RATE, layout="mono") if sound_first else None
        picture = out.add_stream("mjpeg", rate=1)
        track = track or out.add_stream(codec, rate=RATE, layout="mono")
        assert isinstance(picture, av.VideoStream) and isinstance(track, av.AudioStream)
        picture.width = picture.height = 32
        picture.pix_fmt = "yuvj420p"
        picture.disposition = Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(TONE[None], format="fltp", layout="mono")
        frame.sample_rate = RATE
        resampler = av.AudioResampler(format=track.format, rate=RATE, layout="mono", frame_size=track.frame_size or 0)
        out.mux(picture.encode(av.VideoFrame.from_image(scene(0, 32, 32)).reformat(format="yuvj420p")))
        out.mux(picture.encode(None))
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(track.encode(part))
        out.mux(track.encode(None))
    return data.getvalue()


COVERS = {
    "opus": lambda: ogg_with_cover("OPUS"),
    "ogg": lambda: ogg_with_cover("VORBIS"),
    "flac": flac_with_cover,
    "mp3": mp3_with_cover,
    "m4a": lambda: muxed_cover("mp4", "aac", sound_first=True),
    "cover first.m4a": lambda: muxed_cover("mp4", "aac", sound_first=False),
    "mka": lambda: muxed_cover("matroska", "libmp3lame", sound_first=True),
    "cover first.mkv": lambda: muxed_cover("matroska", "libmp3lame", sound_first=False),
}


def test_a_cover_makes_no_film_of_a_recording(tmp_path):
    """It runs in a process of its own, because FFmpeg crashed when a cover was seeked in."""
    for name, make in COVERS.items():
        path = tmp_path / f"song.{name}"
        path.write_bytes(make())
        with open_av(path) as container:
            assert len(container.streams.video) == 1 and len(container.streams.audio) == 1
            assert is_cover(container.streams.video[0]) or "mk" in name
    program = """
import sys
from mmcl_fast.errors import MediaError
from mmcl_fast.media import check, decode, sniff
for path in sys.argv[1:]:
    print(sniff(path), sniff(open(path, "rb").read()))
    check(path, "audio")
    print(tuple(decode(path, "audio").shape))
    for work in (decode, check):
        try: work(path, "video")
        except MediaError as error: print(str(error).removeprefix(path))
"""
    command = [sys.executable, "-W", "ignore", "-c", program, *sorted(map(str, tmp_path.iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    refusal = ": holds no video track: its content is audio; move it to audio or replace it"
    assert done.stdout.splitlines() == ["audio audio", "(1, 3, 224, 224)", refusal, refusal] * len(COVERS)


def test_damage_is_a_modality_or_one_clean_line(tmp_path):
    """Files of every format with a cut or changed start, as files and as slices."""
    rng, outcomes = random.Random(3), set()
    pack = tmp_path / "pack.bin"
    for files in by_modality().values():
        for name, data in files.items():
            for _ in range(4):
                broken = bytearray(data[: rng.choice((1, 2, 4, 9, 13, 30, 90, len(data), len(data)))])
                for _ in range(rng.randrange(4)):
                    broken[rng.randrange(min(len(broken), 64))] ^= 1 << rng.randrange(8)
                pack.write_bytes(b"\xff" * 9 + broken)
                found = []
                for source in (bytes(broken), Slice(str(pack), 9, len(broken), name)):
                    try:
                        found.append(sniff(source))
                        assert found[-1] in MODALITIES
                    except MediaError as error:
                        assert str(error).isprintable() and ": " in str(error)
                        found.append("refused")
                assert found[0] == found[1], name
                outcomes.add(found[0])
    assert outcomes == {"refused", *MODALITIES}


def test_noise_is_nothing():
    for seed in range(60):
        data = noise(random.Random(seed).choice((100, 3000, 20_000)), seed)
        with pytest.raises(MediaError, match="neither image, video, audio, depth map nor UTF-8 text: convert it"):
            sniff(data)
        for start in (b"\xff\xfb\x90\0", b"G" + noise(187, seed), b"\0\0\0\x18ftypmp42", b"\0\0\1\xb3", b"\x0b\x77"):
            with pytest.raises(MediaError):
                sniff(start + data)


def test_a_picture_that_is_broken_is_no_film():
    """FFmpeg's demuxers of single images must not be used for recognition."""
    for kind, kept in (("PNG", 8), ("TIFF", 8), ("JPEG", 4), ("WEBP", 12), ("BMP", 8)):
        data = bytearray(saved(scene(), kind))
        data[kept : kept + 600] = bytes(600)
        with pytest.raises(MediaError, match="neither image, video"):
            sniff(bytes(data))


def test_a_printable_picture_has_its_own_size():
    """A sentence may begin like a netpbm image, but an image has as many bytes as its first line says."""
    pixels = b"Words fill it up" * 4
    assert sniff(b"P5 8 8 255\n" + pixels) == "image"
    assert sniff(b"P5 8 8 255\n" + pixels[:-1]) == "text" and sniff(b"P5 8 8 255\n" + pixels + b"!") == "text"
    large = b"P5 300 300 255\n" + b"w" * 90_000
    assert sniff(large) == "image"
    assert np.isclose(decode(large, "image", plain("image", 8)).mean().item(), ord("w") / 255, atol=1e-3)
    assert sniff(b"P5 300 300 255\n" + b"w" * 60_000) == "text"


def test_an_animation_is_a_film_and_a_still_is_none():
    for kind in ("GIF", "WEBP", "PNG", "AVIF"):
        assert sniff(films()[kind.lower()]) == "video"
        assert sniff(saved(scene(), kind)) == "image"
    assert sniff(saved(Image.new("I;16", (9, 9), 700), "PNG")) == "depth"
