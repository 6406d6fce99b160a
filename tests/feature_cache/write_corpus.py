"""Writes the files of tests/feature_cache/corpus: ``python -m tests.feature_cache.write_corpus``.

The files are committed, because encoders of other library versions write other bytes. Run this only to add a format,
then store the reference anew: ``python -m tests.feature_cache.store_reference``.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from PIL import Image

CORPUS = Path(__file__).parent / "corpus"


def scene(height: int, width: int, phase: float = 0.0) -> np.ndarray:
    """Return float32 ``[height, width, 3]`` in 0..1 with smooth areas, edges, texture and colour."""
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width])[:, None, None]
    waves = [np.sin(2 * np.pi * ((3 + c) * x + (2 - c) * y + 0.1 * c + phase)) for c in range(3)]
    texture = np.sin(2 * np.pi * 23 * x) * np.sin(2 * np.pi * 19 * y) * (y > 0.5)
    disc = ((x - 0.35 - 0.3 * phase) ** 2 + (y - 0.4) ** 2 < 0.04)[..., None] * np.array([0.3, -0.25, 0.15])
    bars = ((x * 12).astype(int) % 2 * (y > 0.75) * (x > 0.5))[..., None] * np.array([-0.2, 0.25, 0.3])
    image = 0.45 + 0.14 * np.stack(waves, -1) + 0.12 * texture[..., None] + disc + bars
    return np.clip(image, 0, 1).astype(np.float32)


def eight_bits(image: np.ndarray) -> np.ndarray:
    return np.round(image * 255).astype(np.uint8)


def sixteen_bits(image: np.ndarray) -> np.ndarray:
    return np.round(image * 65535).astype(np.uint16)


def images() -> None:
    small = Image.fromarray(eight_bits(scene(90, 120)))
    small.save(CORPUS / "plain.jpg", quality=85)
    Image.fromarray(eight_bits(scene(900, 1100))).save(CORPUS / "large.jpg", quality=15)
    exif = Image.Exif()
    exif[0x0112] = 6
    small.save(CORPUS / "turned.jpg", quality=85, exif=exif)
    small.convert("CMYK").resize((60, 45)).save(CORPUS / "cmyk.jpg", quality=80)
    Image.fromarray(eight_bits(scene(60, 80))).save(CORPUS / "colour.png")
    alpha = np.dstack([eight_bits(scene(48, 64)), eight_bits(scene(48, 64, 0.3))[..., :1]])
    Image.fromarray(alpha).save(CORPUS / "alpha.png")
    small.resize((60, 45)).save(CORPUS / "lossy.webp", quality=70)
    small.quantize(32).resize((60, 45)).save(CORPUS / "palette.gif")
    Image.fromarray(sixteen_bits(scene(40, 50)[..., 0])).save(CORPUS / "grey16.tiff", compression="tiff_lzw")
    deep = av.CodecContext.create("png", "w")
    deep.width, deep.height, deep.pix_fmt, deep.time_base = 50, 40, "rgb48be", Fraction(1, 1)
    frame = av.VideoFrame.from_ndarray(sixteen_bits(scene(40, 50)), format="rgb48be")
    frame.pts = 0
    (CORPUS / "deep.png").write_bytes(b"".join(map(bytes, [*deep.encode(frame), *deep.encode(None)])))


def videos() -> None:
    frames = [eight_bits(scene(72, 96, i / 24)) for i in range(16)]
    for name, codec, options in (
        ("clip.mp4", "libx264", {"crf": "30", "g": "6", "threads": "1"}),
        ("clip.webm", "libvpx-vp9", {"crf": "45", "b": "0", "threads": "1"}),
    ):
        with av.open(CORPUS / name, "w") as container:
            stream: Any = container.add_stream(codec, rate=8, options=options)
            stream.width, stream.height, stream.pix_fmt = 96, 72, "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))
    first, *rest = [Image.fromarray(frame).resize((48, 36)).quantize(16) for frame in frames[::3]]
    first.save(CORPUS / "moving.gif", save_all=True, append_images=rest, duration=125, loop=0)


def sound(rate: int, seconds: float, channels: int) -> np.ndarray:
    """Return float64 ``[T, channels]``: two chirps, a hum, clicks and a quiet end."""
    t = np.arange(round(rate * seconds)) / rate
    wave = 0.3 * np.sin(2 * np.pi * (200 * t + 0.4 * rate / 4 * t**2)) + 0.2 * np.sin(2 * np.pi * (0.3 * rate * t))
    wave = wave * (t < 0.8 * seconds) + 0.02 * np.sin(2 * np.pi * 110 * t)
    wave[:: rate // 7] += 0.3
    return np.stack([wave * (1 - 0.4 * c) for c in range(channels)], -1)


def sounds() -> None:
    soundfile.write(CORPUS / "mono.wav", sound(8000, 0.7, 1), 8000, subtype="PCM_16")
    soundfile.write(CORPUS / "stereo.flac", sound(22050, 0.25, 2), 22050, subtype="PCM_16")
    soundfile.write(CORPUS / "vorbis.ogg", sound(16000, 0.8, 1), 16000, format="OGG", subtype="VORBIS")
    soundfile.write(CORPUS / "layer3.mp3", sound(44100, 0.6, 1), 44100, format="MP3")
    with av.open(CORPUS / "aac.m4a", "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(sound(16000, 0.8, 1).T.astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def depths() -> None:
    y, x = np.mgrid[0:48, 0:64] / np.array([48, 64])[:, None, None]
    metres = (1.2 + 2 * y + 0.5 * np.sin(9 * x) + ((x - 0.6) ** 2 + (y - 0.5) ** 2 < 0.03) * -0.8).astype(np.float32)
    metres[5:11, 8:20] = 0
    Image.fromarray(np.round(metres * 1000).astype(np.uint16)).save(CORPUS / "depth.png")
    np.save(CORPUS / "depth.npy", metres[::2, ::2].astype(np.float16))
    small = metres[::2, ::2]
    (CORPUS / "depth.pfm").write_bytes(b"Pf\n32 24\n-1.0\n" + small[::-1].astype("<f4").tobytes())
    codec = av.CodecContext.create("exr", "w")
    codec.width, codec.height, codec.pix_fmt, codec.time_base = 32, 24, "grayf32le", Fraction(1, 1)
    codec.options = {"compression": "zip16"}
    frame = av.VideoFrame.from_ndarray(small, format="grayf32le")
    frame.pts = 0
    (CORPUS / "depth.exr").write_bytes(b"".join(map(bytes, [*codec.encode(frame), *codec.encode(None)])))


def texts() -> None:
    (CORPUS / "plain.txt").write_text("A red bicycle leans against the old brick wall, and a cat sleeps below it.\n")
    accents = "\ufeffNaïve café — Straße, 東京, e\u0301, “quotes” & emoji 🙂"
    (CORPUS / "unicode.txt").write_bytes(accents.encode("utf-8"))
    (CORPUS / "utf16.txt").write_bytes("Short text in sixteen bits.".encode("utf-16"))


if __name__ == "__main__":
    CORPUS.mkdir(exist_ok=True)
    for write in (images, videos, sounds, depths, texts):
        write()
    print(f"{sum(file.stat().st_size for file in CORPUS.iterdir())} bytes in {CORPUS}")
