"""Small valid files of every format that the CPU backend reads, for ``corrupt`` to damage."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import av
import numpy as np
import soundfile
from PIL import Image

from tests.media.png_files import exif, png
from tests.media.tiff_files import DEFLATE, LZW, ZSTD, tiff

WIDTH, HEIGHT = 75, 53  # numbers that ``corrupt`` can find in the files' headers
RATE, SAMPLES = 11025, 3307
EXACT = {"fflags": "+bitexact"}  # no random numbers, no times of writing


@dataclass(frozen=True)
class Original:
    """A valid file. ``fields``: numbers in its header, such as the width, that ``corrupt`` replaces by absurd ones."""

    name: str
    modality: str
    data: bytes
    fields: tuple[int, ...] = ()

    @property
    def suffix(self) -> str:
        return self.name[self.name.rindex(".") :]


def scene(number: int = 0, width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Return a smooth image with a hard edge and a little noise; ``number`` moves it."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:height, :width] / max(height, width)
    planes = [np.sin(7 * x + k + 0.3 * number) * np.cos(5 * y - k) for k in range(3)]
    pixels = 127 + 90 * np.stack(planes, -1) + rng.normal(0, 4, (height, width, 3))
    pixels[height // 3 : height // 2, width // 4 + number % 9 : width // 2] = (250, 30, 60)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def saved(image: Image.Image, kind: str, **options) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def clip(
    container: str, codec: str, frames: int = 12, pix_fmt: str = "yuv420p", sound: str | None = None, **options: Any
) -> bytes:
    """Return a video of ``scene``s, 76 x 54, 25 frames a second."""
    data = io.BytesIO()
    with av.open(data, "w", format=container, container_options=EXACT) as out:
        stream = cast(av.VideoStream, out.add_stream(codec, rate=25, options=options))
        stream.width, stream.height, stream.pix_fmt = 76, 54, pix_fmt
        stream.codec_context.thread_count = 1
        track = out.add_stream(sound, rate=48000, layout="mono") if sound else None
        for number in range(frames):
            frame = av.VideoFrame.from_image(scene(number, 76, 54))
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if track:
            _encode(out, track, 48000, frames * 1920)
    return data.getvalue()


def recording(container: str, codec: str, rate: int = RATE) -> bytes:
    data = io.BytesIO()
    with av.open(data, "w", format=container, container_options=EXACT) as out:
        track = cast(av.AudioStream, out.add_stream(codec, rate=rate, layout="mono"))
        track.bit_rate = 64000
        _encode(out, track, rate, SAMPLES)
    return data.getvalue()


def _encode(out, track, rate: int, samples: int) -> None:
    frame = av.AudioFrame.from_ndarray(wave(samples)[None], format="fltp", layout="mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler(format=track.format, rate=rate, layout="mono", frame_size=track.frame_size or 0)
    for part in [*resampler.resample(frame), *resampler.resample(None)]:
        out.mux(track.encode(part))
    out.mux(track.encode(None))


def wave(samples: int = SAMPLES) -> np.ndarray:
    time = np.arange(samples) / RATE
    return (0.4 * np.sin(2 * np.pi * (300 + 900 * time) * time)).astype(np.float32)


def written(kind: str, subtype: str | None = None, channels: int = 1, rate: int = RATE) -> bytes:
    data = io.BytesIO()
    samples = np.repeat(wave()[:, None], channels, 1)
    soundfile.write(data, samples, rate, format=kind, subtype=subtype)
    if kind == "OGG":
        return sealed_ogg(data.getvalue(), serial=1)
    start, mark, peak = data.getvalue().partition(b"PEAK")  # of samples that are floats; libsndfile puts the time there
    return start + mark + peak[:8] + bytes(4) + peak[12:] if mark else start


def sealed_ogg(data: bytes, serial: int | None = None) -> bytes:
    """Return the pages with right checksums (RFC 3533, section 6) and this serial number."""
    out, at = b"", 0
    while data[at : at + 4] == b"OggS" and at + 27 <= len(data):
        lengths = data[at + 27 : at + 27 + data[at + 26]]
        end = at + 27 + len(lengths) + sum(lengths)
        number = data[at + 14 : at + 18] if serial is None else struct.pack("<I", serial)
        page, value = data[at : at + 14] + number + data[at + 18 : at + 22] + bytes(4) + data[at + 26 : end], 0
        for byte in page:
            value = (value << 8 & 0xFFFFFFFF) ^ _ogg_table()[value >> 24 ^ byte]
        out += page[:22] + struct.pack("<I", value) + page[26:]
        at = end
    return out + data[at:]


@cache
def _ogg_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1 ^ 0x04C11DB7 if value & 0x80000000 else value << 1) & 0xFFFFFFFF
        table.append(value)
    return tuple(table)


def npy(values: np.ndarray) -> bytes:
    data = io.BytesIO()
    np.save(data, values)
    return data.getvalue()


def originals() -> list[Original]:
    return [*_images(), *_videos(), *_sounds(), *_depths(), *_texts()]


def _images() -> list[Original]:
    rgb, size = scene(), (WIDTH, HEIGHT)
    alpha = rgb.convert("RGBA")
    alpha.putalpha(rgb.convert("L"))
    large = scene(3, 1200, 900)  # large enough for the JPEG decoder's own scaling
    turned = Image.Exif()
    turned[0x0112] = 6
    deep = np.asarray(rgb).astype(np.uint16) * 257
    made = {
        "baseline.jpg": saved(rgb, "JPEG", exif=turned),
        "progressive.jpg": saved(rgb, "JPEG", progressive=True),
        "cmyk.jpg": saved(rgb.convert("CMYK"), "JPEG"),
        "grey.jpg": saved(rgb.convert("L"), "JPEG"),
        "restart.jpg": saved(rgb, "JPEG", restart_marker_blocks=2),
        "large.jpg": saved(large, "JPEG", quality=30),
        "large-progressive.jpg": saved(large, "JPEG", quality=30, progressive=True),
        "bilevel.png": saved(rgb.convert("1"), "PNG"),
        "rgb.png": saved(rgb, "PNG"),
        "palette.png": saved(rgb.quantize(16), "PNG"),
        "alpha.png": saved(alpha, "PNG"),
        "lossy.webp": saved(rgb, "WEBP"),
        "lossless.webp": saved(rgb, "WEBP", lossless=True),
        "alpha.webp": saved(alpha, "WEBP"),
        "raw.tiff": saved(rgb, "TIFF"),
        "lzw.tiff": saved(rgb, "TIFF", compression="tiff_lzw"),
        "deflate.tiff": saved(rgb, "TIFF", compression="tiff_adobe_deflate"),
        "jpeg.tiff": saved(rgb, "TIFF", compression="jpeg"),
        "fax.tiff": saved(rgb.convert("1"), "TIFF", compression="group4"),
        "packbits.tiff": saved(rgb.quantize(16), "TIFF", compression="packbits"),
        "rgb.bmp": saved(rgb, "BMP"),
        "palette.bmp": saved(rgb.quantize(16), "BMP"),
        "still.gif": saved(rgb, "GIF"),
        "rgb.ppm": saved(rgb, "PPM"),
        "rgb10.ppm": b"P6 %d %d 1023\n" % (WIDTH, HEIGHT) + (deep >> 6).astype(">u2").tobytes(),
        "rgb16-tiles.tiff": tiff(deep, tile=(16, 32), compression=LZW, predictor=2, big_endian=True, orientation=6),
        "rgb16-planes.tiff": tiff(deep, rows=9, planar=True, compression=ZSTD, big=True),
        "turned16.png": png(deep, after=[exif(6)]),
        "rgb.avif": saved(rgb, "AVIF"),
        "rgb.jp2": saved(rgb, "JPEG2000"),
    }
    found = [Original(name, "image", data, (1200, 900) if "large" in name else size) for name, data in made.items()]
    return [*found, Original("rgb16.png", "image", _by_av("png", "rgb48be"), size)]


def _by_av(codec: str, pix_fmt: str, **options: str) -> bytes:
    """Return an image that Pillow cannot write: 16 bits a channel, or OpenEXR."""
    data = io.BytesIO()
    with av.open(data, "w", format="image2pipe") as out:
        stream = cast(av.VideoStream, out.add_stream(codec, rate=1, options=options))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        out.mux(stream.encode(av.VideoFrame.from_image(scene()).reformat(format=pix_fmt, threads=1)))
        out.mux(stream.encode(None))
    return data.getvalue()


def _videos() -> list[Original]:
    frames = [scene(number) for number in range(6)]
    moving = {"save_all": True, "append_images": frames[1:], "duration": 70}
    fast: dict[str, Any] = {"preset": "ultrafast", "g": "8"}
    x265: dict[str, Any] = {"preset": "ultrafast", "x265-params": "log-level=none:pools=1"}
    vp8: dict[str, Any] = {"deadline": "good", "cpu-used": "4"}  # "realtime" heeds the time
    vp9: dict[str, Any] = {"deadline": "realtime", "cpu-used": "8"}
    av1: dict[str, Any] = {"preset": "12", "svtav1-params": "lp=1"}
    made = {
        "h264.mp4": clip("mp4", "libx264", sound="aac", **fast),
        "h264-long.mp4": clip("mp4", "libx264", 100, **fast),
        "h264.mkv": clip("matroska", "libx264", 100, **fast),
        "h264.ts": clip("mpegts", "libx264", sound="aac", **fast),
        "h264.mov": clip("mov", "libx264", **fast),
        "hevc.mp4": clip("mp4", "libx265", **x265),
        "hevc.mkv": clip("matroska", "libx265", **x265),
        "vp8.webm": clip("webm", "libvpx", **vp8),
        "vp9.webm": clip("webm", "libvpx-vp9", sound="libopus", **vp9),
        "vp9-long.webm": clip("webm", "libvpx-vp9", 100, **vp9, g="10"),
        "av1.mp4": clip("mp4", "libsvtav1", 6, **av1),
        "av1.webm": clip("webm", "libsvtav1", 6, **av1),
        "mjpeg.avi": clip("avi", "mjpeg", pix_fmt="yuvj420p"),
        "mpeg4.avi": clip("avi", "mpeg4", sound="libmp3lame"),
        "mpeg4.mp4": clip("mp4", "mpeg4"),
        "mpeg2.mpg": clip("mpeg", "mpeg2video"),
        "ffv1.mkv": clip("matroska", "ffv1", 3, level="3"),
        "h264.flv": clip("flv", "libx264", **fast),
    }
    found = [Original(name, "video", data, (76, 54, 12800, 15360)) for name, data in made.items()]
    for name, kind in (("moving.gif", "GIF"), ("moving.webp", "WEBP"), ("moving.png", "PNG")):
        found.append(Original(name, "video", saved(frames[0], kind, **moving), (WIDTH, HEIGHT, 6, 70)))
    return found


def _sounds() -> list[Original]:
    made = {
        "pcm8.wav": written("WAV", "PCM_U8"),
        "pcm16.wav": written("WAV", "PCM_16"),
        "stereo24.wav": written("WAV", "PCM_24", 2),
        "pcm32.wav": written("WAV", "PCM_32"),
        "float.wav": written("WAV", "FLOAT"),
        "adpcm.wav": written("WAV", "IMA_ADPCM"),
        "mono.flac": written("FLAC"),
        "stereo.flac": written("FLAC", channels=2),
        "vorbis.ogg": written("OGG", "VORBIS"),
        "speech.opus": written("OGG", "OPUS", rate=16000),
        "mono.mp3": written("MP3"),
        "stereo.mp3": written("MP3", channels=2),
        "pcm16.aiff": written("AIFF", "PCM_16"),
        "pcm16.caf": written("CAF", "PCM_16"),
        "aac.m4a": recording("ipod", "aac"),
        "alac.m4a": recording("ipod", "alac"),
        "aac.aac": recording("adts", "aac"),
        "wma.wma": recording("asf", "wmav2", 44100),
    }
    made["chain.ogg"] = made["vorbis.ogg"] + made["speech.opus"]
    made["joined.mp3"] = made["mono.mp3"] + made["stereo.mp3"]
    made["piped.wav"] = made["pcm16.wav"][:40] + b"\xff" * 4 + made["pcm16.wav"][44:]
    return [Original(name, "audio", data, (RATE, SAMPLES, 16)) for name, data in made.items()]


def _depths() -> list[Original]:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    metres = 1 + 0.02 * x + 0.03 * y
    whole = (metres * 1000).astype(np.uint16)
    made = {
        "depth16.png": saved(Image.fromarray(whole), "PNG"),
        "millimetres.pgm": b"P5 %d %d 10000\n" % (WIDTH, HEIGHT) + whole.astype(">u2").tobytes(),
        "metres.pfm": b"Pf %d %d -1\n" % (WIDTH, HEIGHT) + metres[::-1].astype("<f4").tobytes(),
        "half-tiles.tiff": tiff(metres.astype(np.float16), tile=(16, 16), compression=DEFLATE, predictor=3),
        "depth16.tiff": saved(Image.fromarray(whole), "TIFF"),
        "depth32.tiff": saved(Image.fromarray(whole.astype(np.int32)), "TIFF", compression="tiff_lzw"),
        "float.tiff": saved(Image.fromarray(metres.astype(np.float32)), "TIFF"),
        "plain.exr": _by_av("exr", "gbrpf32le", compression="none"),
        "zip.exr": _by_av("exr", "grayf32le", compression="zip16"),
        "float32.npy": npy(metres.astype(np.float32)),
        "float64.npy": npy(metres),
        "uint16.npy": npy(whole),
        "int64-columns.npy": npy(np.asfortranarray(whole.astype(np.int64))),
    }
    return [Original(name, "depth", data, (WIDTH, HEIGHT)) for name, data in made.items()]


def _texts() -> list[Original]:
    words = "Grüße aus Köln: a sentence of plain words, ein Satz mit Umläuten, 文字 and 🙂.\n" * 8
    return [Original("words.txt", "text", words.encode()), Original("bom.txt", "text", words.encode("utf-8-sig"))]
