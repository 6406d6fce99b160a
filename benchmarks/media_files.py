"""Media files from a seed with natural statistics: a spectrum as in photographs, with edges and motion."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np


def noise_field(rng: np.random.Generator, height: int, width: int, power: float = 1.0) -> np.ndarray:
    """Return Gaussian noise with an amplitude spectrum of 1 / frequency ** power: float32 ``[height, width]`` in 0..1.

    Photographs have a power near 1 (Field 1987). With it, JPEG and H.264 files have their usual size.
    """
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    radius = np.hypot(fy * max(height, width), fx * max(height, width)).clip(1)
    spectrum = np.fft.rfft2(rng.standard_normal((height, width))) / radius**power
    values = np.fft.irfft2(spectrum, (height, width))
    low, high = np.quantile(values, (0.01, 0.99))
    return ((values - low) / (high - low)).clip(0, 1).astype(np.float32)


def draw_picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return uint8 ``[height, width, 3]``: coloured noise, with discs and boxes of a second noise in front of it."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    out, front = _surface(rng, height, width), _surface(rng, height, width)
    for index in range(6):
        cy, cx, size = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(0.08, 0.3) * height
        inside = (np.hypot(y - cy, x - cx) < size) if index % 2 else (abs(y - cy) < size) & (abs(x - cx) < size / 2)
        out[inside] = rng.uniform(0.4, 1) * front[inside]
    return (out * 255).astype(np.uint8)


def _surface(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return ``[height, width, 3]`` in 0..1. Light varies much and colour little, as in photographs."""
    light = noise_field(rng, height, width, 1.2)[..., None]
    tint = np.stack([noise_field(rng, height, width, 1.6) for _ in range(3)], -1)
    return (0.75 * light + 0.25 * tint) * rng.uniform(0.5, 1.0, 3).astype(np.float32)


def write_images(folder: Path, rng: np.random.Generator, kind: str, size: tuple[int, int], count: int) -> list[Path]:
    """Write ``count`` pictures of ``size`` (width, height), and return their paths.

    Every fourth picture, from the first on, has width and height exchanged.
    """
    from PIL import Image

    paths = []
    for index in range(count):
        width, height = size if index % 4 else size[::-1]
        im = Image.fromarray(draw_picture(rng, height, width))
        paths.append(folder / f"{index}.{kind}")
        im.save(paths[-1], quality=85)  # Pillow ignores it for PNG
    return paths


def write_depth_maps(folder: Path, rng: np.random.Generator, count: int) -> list[Path]:
    """Write 16-bit PNGs of 640 x 480, in millimetres from 0.5 to 8 m, and return their paths. 0 is invalid."""
    from PIL import Image

    paths = []
    for index in range(count):
        millimetres = (500 + 7500 * noise_field(rng, 480, 640, 1.8)).astype(np.uint16)
        millimetres[noise_field(rng, 480, 640, 1.4) < 0.08] = 0
        paths.append(folder / f"{index}.png")
        Image.fromarray(millimetres).save(paths[-1])
    return paths


def write_sounds(folder: Path, rng: np.random.Generator, kind: str, rate: int, count: int) -> list[Path]:
    """Write mono files of 5 to 10 s (16 bits in WAV and FLAC), and return their paths.

    They hold pink noise in bursts, with three harmonic tones.
    """
    import soundfile

    paths = []
    for index in range(count):
        length = int(rate * np.linspace(5, 10, count)[index])
        time = np.arange(length) / rate
        spectrum = np.fft.rfft(rng.standard_normal(length)) / np.sqrt(np.arange(length // 2 + 1).clip(20))  # no rumble
        wave = np.fft.irfft(spectrum, length)
        wave *= 0.1 / wave.std() * (0.3 + np.abs(np.sin(np.pi * rng.uniform(0.5, 2) * time)))
        for pitch in rng.uniform(100, 2000, 3):
            wave += sum(0.05 / k * np.sin(2 * np.pi * k * pitch * time) for k in (1, 2, 3))
        paths.append(folder / f"{index}.{kind}")
        soundfile.write(paths[-1], (wave / max(1.0, np.abs(wave).max())).astype(np.float32), rate)
    return paths


CODECS = {  # file ending, encoder, options
    "h264": ("mp4", "libx264", {"crf": "23", "preset": "veryfast"}),
    "vp9": ("webm", "libvpx-vp9", {"crf": "32", "b": "0", "deadline": "realtime", "cpu-used": "8"}),
    "mjpeg": ("avi", "mjpeg", {"qmin": "4", "qmax": "4"}),
}


def write_videos(
    folder: Path, rng: np.random.Generator, codec: str, size: tuple[int, int], seconds: tuple[float, ...]
) -> list[Path]:
    """Write one video for each length, with 25 frames a second, and return their paths.

    Two layers move apart, under a little noise as from a sensor.
    """
    import av

    ending, encoder, options = CODECS[codec]
    width, height = size
    paths = []
    for index, length in enumerate(seconds):
        back, front = draw_picture(rng, 2 * height, 2 * width), draw_picture(rng, 2 * height, 2 * width)
        shape = noise_field(rng, 2 * height, 2 * width, 1.8) > 0.65
        noise = rng.integers(-3, 4, (8, height, width, 1), dtype=np.int16)
        paths.append(folder / f"{index}.{ending}")
        with av.open(str(paths[-1]), "w") as container:
            stream = cast(av.VideoStream, container.add_stream(encoder, rate=25, options=options))
            stream.width, stream.height = size
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for number in range(int(25 * length)):
                t = number / 25
                frame = _crop(back, t, height, width, 0.3).astype(np.int16)
                mask = _crop(shape, t, height, width, -0.7)
                frame[mask] = _crop(front, t, height, width, -0.7)[mask]
                frame = (frame + noise[number % len(noise)]).clip(0, 255).astype(np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))
    return paths


def _crop(plane: np.ndarray, time: float, height: int, width: int, speed: float) -> np.ndarray:
    """Return a window of ``plane`` that swings with ``time``, in whole pixels."""
    y = int((plane.shape[0] - height) * (0.5 + 0.5 * np.sin(speed * time)))
    x = int((plane.shape[1] - width) * (0.5 + 0.5 * np.cos(1.3 * speed * time)))
    return plane[y : y + height, x : x + width]


def write_texts(folder: Path, rng: np.random.Generator, count: int) -> list[Path]:
    """Write UTF-8 files of about 600 characters, and return their paths."""
    paths = []
    for index in range(count):
        words = ("".join(rng.choice(list("etaoinshrdlucmfwyp"), rng.integers(2, 10))) for _ in range(100))
        paths.append(folder / f"{index}.txt")
        paths[-1].write_text(" ".join(words), encoding="utf-8")
    return paths
