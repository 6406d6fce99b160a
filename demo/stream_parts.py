"""The demo's files as parts of new samples: decoded once, and known by the group of near-equal files they belong to."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

SIDE = {"image": 224, "depth": 160, "video": 96}  # pixels
RATE, SECONDS = 22_050, 2.4  # of audio: Hz, length
FRAMES, FPS = 20, 10  # of video
PHRASES = {
    "image": "a photo of",
    "depth": "a depth map of",
    "audio": "the sound of",
    "video": "a video of",
    "text": "text",
}
Part = np.ndarray | str


class Media:
    """The demo's files; each is read once.

    Attributes:
        files: paths by modality, split and label.
        texts: texts by modality, split and label, for texts that stand in the manifest itself.
    """

    def __init__(self, demo: Path):
        self.files: dict[tuple[str, str, str], list[Path]] = defaultdict(list)
        self.texts: dict[tuple[str, str, str], list[str]] = defaultdict(list)
        self._groups: dict[tuple[str, str, str], list[str]] = defaultdict(list)
        for line in (demo / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            key = (row["modality"], row["split"], row["label"])
            if "path" in row:
                self.files[key].append(demo / row["path"])
            else:
                self.texts[key].append(row["text"])
            self._groups[key].append(row.get("group", row["source"]))
        self._read: dict[Path, Part] = {}

    def labels(self, modality: str) -> list[str]:
        """Return the labels of a modality that have training samples, sorted."""
        keys = [*self.files, *self.texts]
        return sorted({label for name, split, label in keys if name == modality and split == "train"})

    def count(self, modality: str, split: str, label: str) -> int:
        """Return the number of samples of a class in a split."""
        return len(self.files[modality, split, label]) or len(self.texts[modality, split, label])

    def group(self, modality: str, split: str, label: str, number: int) -> str:
        """Return the name of the photo group, pitch, mesh, animation or synset that a sample comes from."""
        return self._groups[modality, split, label][number]

    def part(self, modality: str, split: str, label: str, number: int) -> Part:
        """Return one decoded sample, as a part of a new sample."""
        if texts := self.texts[modality, split, label]:
            return texts[number]
        path = self.files[modality, split, label][number]
        if path not in self._read:
            self._read[path] = READ[modality](path)
        return self._read[path]


def read_text(path: Path) -> str:
    """Return the text without white space around it."""
    return path.read_text(encoding="utf-8").strip()


def read_image(path: Path) -> np.ndarray:
    """Return the square in the middle, uint8 ``[S, S, 3]`` with S as in ``SIDE``."""
    from PIL import Image, ImageOps

    with Image.open(path) as im:
        return np.asarray(ImageOps.fit(im.convert("RGB"), (SIDE["image"],) * 2))


def read_depth(path: Path) -> np.ndarray:
    """Return millimetres, uint16 ``[S, S]``."""
    from PIL import Image

    with Image.open(path) as im:
        return np.asarray(im.resize((SIDE["depth"],) * 2, Image.Resampling.NEAREST)).astype(np.uint16)


def read_audio(path: Path) -> np.ndarray:
    """Return the mono wave at ``RATE``, float32 ``[n]``."""
    import soundfile
    from scipy.signal import resample_poly

    wave, rate = soundfile.read(path, dtype="float64", always_2d=True)
    return resample_poly(wave.mean(1), RATE, rate).astype(np.float32)


def read_video(path: Path) -> np.ndarray:
    """Return the first frames, uint8 ``[FRAMES, S, S, 3]``. A shorter clip is repeated."""
    import av
    from PIL import Image

    with av.open(str(path)) as clip:
        frames = [frame.to_image() for frame in clip.decode(video=0)]
    small = [np.asarray(im.resize((SIDE["video"],) * 2, Image.Resampling.LANCZOS)) for im in frames]
    return np.stack([small[n % len(small)] for n in range(FRAMES)])


READ: dict[str, Callable[[Path], Part]] = {
    "image": read_image,
    "depth": read_depth,
    "audio": read_audio,
    "video": read_video,
    "text": read_text,
}
