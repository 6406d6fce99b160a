"""The cases of the media benchmark: files that are written from a seed, or files of a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import media_files as files
from mmcl_fast.errors import MediaError
from mmcl_fast.media import MODALITIES, Spec, default_spec, sniff

MAX_FILES = 256  # of one modality in a folder; the files are spread evenly over the sorted list


@dataclass(frozen=True)
class Case:
    """Files of one modality, and the size of an epoch.

    Attributes:
        name: as in the table, such as "image JPEG 500x375".
        write: a function of a folder and a random generator. It writes the files there and returns their paths.
        batch: number of items in a batch.
        batches: number of batches of one worker in an epoch.
    """

    name: str
    modality: str
    write: Callable[[Path, np.random.Generator], list[Path]]
    batch: int
    batches: int = 4

    @property
    def spec(self) -> Spec:
        """Return the default spec of the modality."""
        return default_spec(self.modality)

    def paths(self, folder: Path) -> list[Path]:
        """Return the files below ``folder``, written first if they are not there."""
        folder = folder / self.name.replace(" ", "-")
        folder.mkdir(exist_ok=True)
        return sorted(folder.iterdir()) or self.write(folder, np.random.default_rng(0))

    def epoch(self, paths: list[Path], workers: int) -> list[Path]:
        """Return as many paths as an epoch of ``workers`` has items; paths repeat if there are too few."""
        count = self.batch * self.batches * max(1, workers)
        return [paths[i % len(paths)] for i in range(count)]


def _image_case(name: str, kind: str, size: tuple[int, int], count: int, batch: int) -> Case:
    return Case(f"image {name}", "image", partial(files.write_images, kind=kind, size=size, count=count), batch)


def _audio_case(name: str, kind: str, rate: int) -> Case:
    return Case(f"audio {name}", "audio", partial(files.write_sounds, kind=kind, rate=rate, count=6), 12)


def _video_case(
    name: str, codec: str, size: tuple[int, int], seconds: tuple[float, ...], batch: int, batches: int
) -> Case:
    write = partial(files.write_videos, codec=codec, size=size, seconds=seconds)
    return Case(f"video {name}", "video", write, batch, batches)


CASES = [
    _image_case("JPEG 256x256", "jpg", (256, 256), 16, 32),
    _image_case("JPEG 500x375", "jpg", (500, 375), 12, 32),
    _image_case("JPEG 1920x1080", "jpg", (1920, 1080), 2, 4),
    _image_case("PNG 500x375", "png", (500, 375), 8, 8),
    _image_case("WebP 500x375", "webp", (500, 375), 8, 8),
    _audio_case("WAV 44.1 kHz", "wav", 44100),
    _audio_case("WAV 16 kHz", "wav", 16000),
    _audio_case("FLAC 44.1 kHz", "flac", 44100),
    _audio_case("MP3 44.1 kHz", "mp3", 44100),
    _audio_case("OGG 44.1 kHz", "ogg", 44100),
    _video_case("H.264 320x240", "h264", (320, 240), (4, 6, 10), 2, 3),
    _video_case("VP9 320x240", "vp9", (320, 240), (4, 6), 2, 2),
    _video_case("MJPEG 224x224", "mjpeg", (224, 224), (4, 6), 2, 3),
    _video_case("H.264 320x240, 60 s", "h264", (320, 240), (60,), 1, 1),
    Case("depth PNG 640x480", "depth", partial(files.write_depth_maps, count=8), 16, 2),
    Case("text", "text", partial(files.write_texts, count=64), 256),
]


def _spread(paths: list[Path], folder: Path, rng: np.random.Generator) -> list[Path]:
    """Return at most ``MAX_FILES`` of the paths; ``Case.write`` explains the other arguments."""
    return paths[:: -(-len(paths) // MAX_FILES)]


def find_cases(root: Path) -> list[Case]:
    """Return one case for each modality in a folder.

    A file's modality is the name of a folder above the file, such as "depth". Other files are known by their content.
    """
    by_modality: dict[str, list[Path]] = {m: [] for m in MODALITIES}
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        above = [part for part in path.relative_to(root).parts[:-1] if part in by_modality]
        try:
            by_modality[above[0] if above else sniff(path)].append(path)
        except MediaError:  # another kind of file: a list, a licence
            continue
    batch = {"image": 32, "video": 4, "audio": 12, "depth": 16, "text": 256}
    return [
        Case(f"{modality} found", modality, partial(_spread, paths), batch[modality])
        for modality, paths in by_modality.items()
        if paths
    ]
