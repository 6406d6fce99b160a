"""The media that are measured: written from a seed, or found in a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import media_files as files
from mmcl_fast.errors import MediaError
from mmcl_fast.media import MODALITIES, Spec, default_spec, sniff

FOUND = 256  # files of a modality taken from a folder, evenly


@dataclass(frozen=True)
class Case:
    """``write(folder, rng)`` gives the paths; batches of ``batch``, ``batches`` of them an epoch and worker."""

    name: str
    modality: str
    write: Callable[[Path, np.random.Generator], list[Path]]
    batch: int
    batches: int = 4

    @property
    def spec(self) -> Spec:
        return default_spec(self.modality)

    def paths(self, folder: Path) -> list[Path]:
        folder = folder / self.name.replace(" ", "-")
        folder.mkdir(exist_ok=True)
        return sorted(folder.iterdir()) or self.write(folder, np.random.default_rng(0))

    def epoch(self, paths: list[Path], workers: int) -> list[Path]:
        """``paths`` in turn, as many as ``batches`` full batches for each worker."""
        count = self.batch * self.batches * max(1, workers)
        return [paths[i % len(paths)] for i in range(count)]


def _image(name: str, kind: str, size: tuple[int, int], count: int, batch: int) -> Case:
    return Case(f"image {name}", "image", partial(files.images, kind=kind, size=size, count=count), batch)


def _sound(name: str, kind: str, rate: int) -> Case:
    return Case(f"audio {name}", "audio", partial(files.sounds, kind=kind, rate=rate, count=6), 12)


def _clip(name: str, codec: str, size: tuple[int, int], seconds: tuple[float, ...], batch: int, batches: int) -> Case:
    write = partial(files.videos, codec=codec, size=size, seconds=seconds)
    return Case(f"video {name}", "video", write, batch, batches)


CASES = [
    _image("JPEG 256x256", "jpg", (256, 256), 16, 32),
    _image("JPEG 500x375", "jpg", (500, 375), 12, 32),
    _image("JPEG 1920x1080", "jpg", (1920, 1080), 2, 4),
    _image("PNG 500x375", "png", (500, 375), 8, 8),
    _image("WebP 500x375", "webp", (500, 375), 8, 8),
    _sound("WAV 44.1 kHz", "wav", 44100),
    _sound("WAV 16 kHz", "wav", 16000),
    _sound("FLAC 44.1 kHz", "flac", 44100),
    _sound("MP3 44.1 kHz", "mp3", 44100),
    _sound("OGG 44.1 kHz", "ogg", 44100),
    _clip("H.264 320x240", "h264", (320, 240), (4, 6, 10), 2, 3),
    _clip("VP9 320x240", "vp9", (320, 240), (4, 6), 2, 2),
    _clip("MJPEG 224x224", "mjpeg", (224, 224), (4, 6), 2, 3),
    _clip("H.264 320x240, 60 s", "h264", (320, 240), (60,), 1, 1),
    Case("depth PNG 640x480", "depth", partial(files.depths, count=8), 16, 2),
    Case("text", "text", partial(files.texts, count=64), 256),
]


def _some(paths: list[Path], folder: Path, rng: np.random.Generator) -> list[Path]:
    return paths[:: -(-len(paths) // FOUND)]


def found(root: Path) -> list[Case]:
    """One case for each modality in a folder: by the name of a folder above a file, else by its content."""
    by_modality: dict[str, list[Path]] = {m: [] for m in MODALITIES}
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        above = [part for part in path.relative_to(root).parts[:-1] if part in by_modality]
        try:
            by_modality[above[0] if above else sniff(path)].append(path)
        except MediaError:  # no medium: a list, a licence
            continue
    batch = {"image": 32, "video": 4, "audio": 12, "depth": 16, "text": 256}
    return [
        Case(f"{modality} found", modality, partial(_some, paths), batch[modality])
        for modality, paths in by_modality.items()
        if paths
    ]
