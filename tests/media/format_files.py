"""A small file of every format that the installed libraries can write, by modality."""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import av
import numpy as np
import soundfile
from PIL import Image

from tests.media.originals import EXACT, npy, saved, scene

FAST = {"preset": "ultrafast", "g": "4"}
X265 = {"preset": "ultrafast", "x265-params": "log-level=none:pools=1"}
VPX = {"deadline": "realtime", "cpu-used": "8"}
RATE = 16000
TONE = (0.4 * np.sin(np.arange(RATE // 2) / 5)).astype(np.float32)  # half a second
PACKET = 188  # bytes of MPEG-TS


@cache
def sounds() -> dict[str, bytes]:
    """Return half a second of a tone in each format."""
    written: tuple[tuple[str, ...], ...] = (
        ("wav", "WAV"),
        ("rifx", "WAV", "PCM_16", "BIG"),
        ("wavex", "WAVEX"),
        ("rf64", "RF64"),
        ("w64", "W64"),
        ("au", "AU"),
        ("snd", "AU", "PCM_16", "LITTLE"),
        ("ulaw.au", "AU", "ULAW"),
        ("sph", "NIST"),
        ("voc", "VOC"),
        ("sf", "IRCAM"),
        ("le.sf", "IRCAM", "PCM_16", "LITTLE"),
        ("be.sf", "IRCAM", "PCM_16", "BIG"),
        ("mat4", "MAT4"),
        ("be.mat4", "MAT4", "PCM_16", "BIG"),
        ("mat5", "MAT5"),
        ("aiff", "AIFF"),
        ("aifc", "AIFF", "FLOAT"),
        ("ulaw.aifc", "AIFF", "ULAW"),
        ("caf", "CAF"),
        ("svx", "SVX"),
        ("paf", "PAF"),
        ("le.paf", "PAF", "PCM_16", "LITTLE"),
        ("pvf", "PVF"),
        ("sds", "SDS"),
        ("avr", "AVR"),
        ("htk", "HTK"),
        ("mpc2k", "MPC2K"),
        ("flac", "FLAC"),
        ("ogg", "OGG", "VORBIS"),
        ("opus", "OGG", "OPUS"),
        ("mp3", "MP3"),
    )
    found = {name: _written(*how) for name, *how in written}
    found["wve"] = _written("WVE", "ALAW")
    found["bw64"] = b"BW64" + found["rf64"][4:]
    for name, container, codec, rate in (
        ("ac3", "ac3", "ac3", 48000),
        ("eac3", "eac3", "eac3", 48000),
        ("wv", "wv", "wavpack", RATE),
        ("tta", "tta", "tta", RATE),
        ("aac", "adts", "aac", RATE),
        ("mp2", "mp2", "mp2", RATE),
        ("id3.mp3", "mp3", "libmp3lame", RATE),
        ("m4a", "ipod", "aac", RATE),
        ("alac.m4a", "ipod", "alac", RATE),
        ("alac.caf", "caf", "alac", RATE),
        ("opus.mp4", "mp4", "libopus", 48000),
        ("mov", "mov", "pcm_s16le", RATE),
        ("mka", "matroska", "libmp3lame", RATE),
        ("weba", "webm", "libopus", 48000),
        ("wma", "asf", "wmav2", 44100),
        ("adpcm.wav", "wav", "adpcm_ms", RATE),
        ("ac3.wav", "wav", "ac3", 48000),
        ("avi", "avi", "libmp3lame", RATE),
        ("flv", "flv", "aac", 44100),
        ("ts", "mpegts", "aac", 48000),
        ("mp2.ts", "mpegts", "mp2", 48000),
        ("ac3.ts", "mpegts", "ac3", 48000),
        ("mpg", "mpeg", "mp2", 48000),
    ):
        found[name] = recorded(container, codec, rate)
    found["amr"] = _amr("amr")
    found["3ga"] = _amr("3gp")
    swapped = bytearray(found["ac3"])
    swapped[0::2], swapped[1::2] = found["ac3"][1::2], found["ac3"][0::2]
    found["swapped.ac3"] = bytes(swapped)
    return found


def _written(kind: str, subtype: str | None = None, endian: str | None = None) -> bytes:
    with TemporaryDirectory() as folder:  # not every writer takes a file object
        path = Path(folder) / "sound.bin"
        soundfile.write(path, TONE, 8000 if kind == "WVE" else RATE, format=kind, subtype=subtype, endian=endian)
        return path.read_bytes()


def recorded(container: str, codec: str, rate: int) -> bytes:
    data = io.BytesIO()
    with av.open(data, "w", format=container, container_options=EXACT) as out:
        track = out.add_stream(codec, rate=rate, layout="mono")
        assert isinstance(track, av.AudioStream)
        track.bit_rate = 64000
        frame = av.AudioFrame.from_ndarray(np.resize(TONE, rate // 2)[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(format=track.format, rate=rate, layout="mono", frame_size=track.frame_size or 0)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(track.encode(part))
        out.mux(track.encode(None))
    return data.getvalue()


def _amr(container: str) -> bytes:
    data = io.BytesIO()
    with av.open(data, "w", format=container) as out:
        track = out.add_stream("libopencore_amrnb", rate=8000, layout="mono")
        assert isinstance(track, av.AudioStream)
        track.bit_rate = 12200
        for part in range(25):
            frame = av.AudioFrame.from_ndarray((TONE[None, :160] * 32767).astype(np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 8000, 160 * part, Fraction(1, 8000)
            out.mux(track.encode(frame))
        out.mux(track.encode(None))
    return data.getvalue()


@cache
def films() -> dict[str, bytes]:
    """Return eight frames of moving scenes in each format; H.263 and DV have sizes of their own."""
    found = {
        name: film(container, codec, options)
        for name, container, codec, options in (
            ("mp4", "mp4", "libx264", FAST),
            ("mov", "mov", "libx264", FAST),
            ("f4v", "f4v", "libx264", FAST),
            ("3gp", "3gp", "mpeg4", {}),
            ("h263.3gp", "3gp", "h263", {}),
            ("mj2", "mov", "jpeg2000", {}),
            ("mkv", "matroska", "libx264", FAST),
            ("ffv1.mkv", "matroska", "ffv1", {}),
            ("webm", "webm", "libvpx", VPX),
            ("avi", "avi", "mpeg4", {}),
            ("mjpeg.avi", "avi", "mjpeg", {}),
            ("raw.avi", "avi", "rawvideo", {}),
            ("flv", "flv", "flv", {}),
            ("wmv", "asf", "wmv2", {}),
            ("ogv", "ogv", "libvpx", VPX),
            ("mpg", "mpeg", "mpeg1video", {}),
            ("vob", "vob", "mpeg2video", {}),
            ("ts", "mpegts", "libx264", FAST),
            ("mpeg2.ts", "mpegts", "mpeg2video", {}),
            ("h264", "h264", "libx264", FAST),
            ("h265", "hevc", "libx265", X265),
            ("m4v", "m4v", "mpeg4", {}),
            ("m1v", "mpeg1video", "mpeg1video", {}),
            ("m2v", "mpeg2video", "mpeg2video", {}),
            ("vp8.ivf", "ivf", "libvpx", VPX),
            ("vp9.ivf", "ivf", "libvpx-vp9", VPX),
            ("y4m", "yuv4mpegpipe", "wrapped_avframe", {}),
            ("mxf", "mxf", "mpeg2video", {}),
        )
    }
    found["m2ts"] = film("mpegts", "libx264", FAST, {"mpegts_m2ts_mode": "1"})
    found["frag.mp4"] = film("mp4", "libx264", FAST, {"movflags": "frag_keyframe+empty_moov+default_base_moof"})
    found["dv"] = film("dv", "dvvideo", size=(720, 576), frames=2)
    pictures = [scene(number) for number in range(4)]
    for kind in ("GIF", "WEBP", "PNG", "AVIF"):
        found[kind.lower()] = saved(pictures[0], kind, save_all=True, append_images=pictures[1:], duration=90)
    return found


def film(
    container: str,
    codec: str,
    options: dict[str, str] | None = None,
    settings: dict[str, str] | None = None,
    size: tuple[int, int] = (176, 144),
    frames: int = 8,
) -> bytes:
    kinds = {"mjpeg": "yuvj420p"}
    data = io.BytesIO()
    with av.open(data, "w", format=container, container_options=settings or {}) as out:
        stream = cast(av.VideoStream, out.add_stream(codec, rate=25, options=cast(dict[str, Any], options or {})))
        stream.width, stream.height = size
        stream.pix_fmt = kinds.get(codec, "yuv420p")
        stream.codec_context.thread_count = 1
        for number in range(frames):
            out.mux(stream.encode(av.VideoFrame.from_image(scene(number, *size)).reformat(format=stream.pix_fmt)))
        out.mux(stream.encode(None))
    return data.getvalue()


@cache
def pictures() -> dict[str, bytes]:
    rgb = scene()
    made = {
        kind.lower(): saved(rgb, kind)
        for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF", "JPEG2000")
    }
    made["j2k"] = saved(rgb, "JPEG2000", no_jp2=True)
    made["bigtiff"] = saved(rgb, "TIFF", big_tiff=True)
    made["pgm"] = saved(rgb.convert("L"), "PPM")
    made["pbm"] = saved(rgb.convert("1"), "PPM")
    made["digits.ppm"] = b"P3\n# three by two\n3 2\n255\n" + b" ".join(b"%d" % (14 * i) for i in range(18)) + b"\n"
    made["digits.pbm"] = b"P1\n4 2\n0 1 0 1\n1 1 0 0\n"
    made["printable.pgm"] = b"P5\n8 8\n255\n" + b"Words fill it up" * 4  # every byte is a letter
    made["printable.ppm"] = b"P6 4 4 255\n" + b"a grey or a text" * 3
    return made


@cache
def depths() -> dict[str, bytes]:
    metres = np.linspace(1, 2, 24 * 32, dtype=np.float32).reshape(24, 32)
    whole = Image.fromarray((1000 * metres).astype(np.uint16))
    return {
        "png": saved(whole, "PNG"),
        "tiff": saved(whole, "TIFF"),
        "float.tiff": saved(Image.fromarray(metres), "TIFF"),
        "jp2": saved(whole, "JPEG2000"),
        "npy": npy(metres),
        "pgm": b"P5 32 24 65535\n" + (1000 * metres).astype(">u2").tobytes(),
        "pfm": b"Pf\n32 24\n-1.0\n" + metres.astype("<f4").tobytes(),
    }


def by_modality() -> dict[str, dict[str, bytes]]:
    return {"audio": sounds(), "video": films(), "image": pictures(), "depth": depths()}


def box(kind: bytes, size: int) -> bytes:
    """Return an empty box of ISO base media of ``size`` bytes."""
    return struct.pack(">I", size) + kind + bytes(size - 8)


def id3_tag(data: bytes) -> bytes:
    """Return the ID3v2 tag at the start of an MP3."""
    size = 0
    for byte in data[6:10]:
        size = size << 7 | byte
    return data[: 10 + size]
