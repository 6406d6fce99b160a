"""Small media files that tests write, and specs to decode them with."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from PIL import Image

from mmcl_fast.media import VisualSpec


def plain(modality: str = "image", size: int = 8, **values) -> VisualSpec:
    """Return a spec that gives values in 0..1, without normalisation."""
    return VisualSpec(modality=modality, size=size, mean=(0, 0, 0), std=(1, 1, 1), **values)


def quarters(size: int = 64) -> Image.Image:
    """Return an image of four quarters: red and green above, blue and white below."""
    half, pixels = size // 2, np.zeros((size, size, 3), np.uint8)
    pixels[:half, :half, 0] = pixels[:half, half:, 1] = pixels[half:, :half, 2] = 255
    pixels[half:, half:] = 255
    return Image.fromarray(pixels)


def corners(picture) -> list[tuple[int, ...]]:
    """Return the colours near the corners of ``[1, 3, H, W]`` in 0..1: the upper two, then the lower two."""
    chw = (picture[0] * 255).round().int()
    return [tuple(chw[:, y, x].tolist()) for y in (1, -2) for x in (1, -2)]


RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def png16(pixels: np.ndarray, fmt: str) -> bytes:
    """Return a PNG of 16 bits a channel, written by PyAV because Pillow cannot."""
    codec = av.CodecContext.create("png", "w")
    codec.height, codec.width = pixels.shape[:2]
    codec.pix_fmt, codec.time_base = f"{fmt}be", Fraction(1)
    frame = av.VideoFrame.from_ndarray(pixels, format=f"{fmt}le").reformat(format=f"{fmt}be")
    return b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)])


BITS = 10


def counting_video(
    path: Path,
    frames: int = 40,
    codec: str = "libx264",
    rate: int = 25,
    gop: int = 12,
    size: int = 80,
    sound: bool = False,
    times: list[int] | None = None,
    **options: str,
) -> Path:
    """Write a video whose frames show their number in binary, as black and white bars; ``times`` in 1 / rate s."""
    with av.open(str(path), "w") as container:
        settings = {"g": str(gop), "preset": "ultrafast"} | options
        stream = cast(av.VideoStream, container.add_stream(codec, rate=rate, options=settings))
        stream.width = stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number in range(frames):
            pixels = np.zeros((size, size, 3), np.uint8)
            for bit in range(BITS):
                if number >> bit & 1:
                    pixels[:, bit * size // BITS : (bit + 1) * size // BITS] = 255
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times:
                frame.pts, frame.time_base = times[number], Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def numbers(frames) -> list[int]:
    """Return the numbers that frames ``[F, 3, H, W]`` of ``counting_video`` show."""
    width = frames.shape[-1]
    middles = [int((bit + 0.5) * width / BITS) for bit in range(BITS)]
    rows = frames[:, 1, frames.shape[2] // 2]
    return [sum(1 << bit for bit, x in enumerate(middles) if row[x] > 0.5) for row in rows]


def tone(hertz: float, rate: int, seconds: float = 1.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def av_audio(path: Path, codec: str, wave: np.ndarray, rate: int) -> Path:
    """Return a mono recording in a codec that soundfile cannot write."""
    with av.open(str(path), "w") as container:
        stream = cast(av.AudioStream, container.add_stream(codec, rate=rate, layout="mono"))
        frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def jpeg(image: Image.Image, **options) -> bytes:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=95, subsampling=0, **options)
    return data.getvalue()
