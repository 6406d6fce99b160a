"""Files that tests of the DALI backend write: images that only one backend reads, and videos in any codec."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import av
import numpy as np
from PIL import Image


@dataclass
class Item:
    modality: str
    path: Path
    text: None = None

    @property
    def key(self) -> str:
        return self.path.name


def scene(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return a smooth random image."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def scenes(folder: Path, count: int) -> list[Item]:
    """Write images of 40 x 40 pixels: 00.png, 01.png, and so on."""
    for i in range(count):
        scene(40, 40, i).save(folder / f"{i:02}.png")
    return [Item("image", folder / f"{i:02}.png") for i in range(count)]


def damaged(path: Path) -> Path:
    """Write a PNG with a wrong checksum: DALI refuses it, Pillow reads it."""
    data = io.BytesIO()
    scene(40, 40).save(data, "PNG")
    png = data.getvalue()
    end = png.index(b"IEND") - 8
    path.write_bytes(png[:end] + bytes(4) + png[end + 4 :])
    return path


def broken(path: Path) -> Path:
    """Write a PNG that no backend reads: a good header and a good end without pixels."""
    data = io.BytesIO()
    scene(40, 40).save(data, "PNG")
    png = data.getvalue()
    start = png.index(b"IDAT") + 4
    path.write_bytes(png[:start] + bytes(len(png) - start - 16) + png[-16:])
    return path


def clip(path: Path, codec: str, pix_fmt: str, frames: int = 30) -> Path:
    """Write a video of a part of a scene that moves to the left."""
    pixels = np.asarray(scene(160 + 2 * frames, 120))
    with av.open(str(path), "w") as container:
        stream = cast(av.VideoStream, container.add_stream(codec, rate=25))
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 160, 120, pix_fmt, 4_000_000
        for number in range(frames):
            part = np.ascontiguousarray(pixels[:, 2 * number : 2 * number + 160])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(part, format="rgb24")))
        container.mux(stream.encode(None))
    return path
