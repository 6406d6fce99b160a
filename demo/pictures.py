"""The demo's files as grey pictures that look alike: photographs, frames, depth maps and spectrograms."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from stream_parts import FRAMES, RATE, Media, Part

SIDE = 224  # pixels of a picture, which shows two things side by side
DOMAINS = {"photograph": "image", "frame": "video", "depth_map": "depth", "spectrogram": "audio"}  # -> in the demo
FRAME_STEP = 5  # one frame in five is a part
LARGEST_VEIL = 0.47  # the veil's weight is below it; at 0.5 nothing says which of the two pictures is the veil
SECONDS, WINDOW, HOP, BANDS, RANGE_DB = 1.2, 1024, 128, 112, 70.0  # of a spectrogram


class Pictures:
    """The parts of new samples as pictures ``[SIDE, SIDE // 2]``; it is a ``Source`` with the names in ``DOMAINS``.

    The values of a picture are ranks in 0..1. So all pictures have the same histogram.
    """

    def __init__(self, media: Media):
        self.media = media
        self._made: dict[tuple[str, str, str, int], np.ndarray] = {}

    def labels(self, modality: str) -> list[str]:
        """Return the labels of a modality, sorted."""
        return self.media.labels(DOMAINS[modality])

    def count(self, modality: str, split: str, label: str) -> int:
        """Return the number of pictures of a class in a split."""
        return self.media.count(DOMAINS[modality], split, label) * self._each(modality)

    def group(self, modality: str, split: str, label: str, number: int) -> str:
        """Return the name of the source that a picture comes from."""
        return self.media.group(DOMAINS[modality], split, label, number // self._each(modality))

    def part(self, modality: str, split: str, label: str, number: int) -> Part:
        """Return one picture, float32."""
        key = (modality, split, label, number)
        if key not in self._made:
            file, still = divmod(number, self._each(modality))
            part = self.media.part(DOMAINS[modality], split, label, file)
            assert not isinstance(part, str)
            self._made[key] = ranks(fit(DRAW[modality](part, still * FRAME_STEP), modality == "spectrogram"))
        return self._made[key]

    def _each(self, modality: str) -> int:
        return FRAMES // FRAME_STEP if modality == "frame" else 1


def spectrogram(wave: np.ndarray) -> np.ndarray:
    """Return the log spectrogram of a note, low pitches at the bottom, float64 ``[rows, columns]`` in 0..1.

    ``wave``: mono at ``RATE``. The rows are at most ``BANDS`` frequencies with equal ratios.
    """
    from scipy.signal import stft

    frequencies, _, spectrum = stft(wave[: int(RATE * SECONDS)], RATE, nperseg=WINDOW, noverlap=WINDOW - HOP)
    rows = np.unique(np.geomspace(2, len(frequencies) - 1, BANDS).astype(int))
    level = 20 * np.log10(np.abs(spectrum[rows[::-1]]) + 1e-5)
    return np.clip((level - level.max()) / RANGE_DB + 1, 0, 1)


def near_is_bright(depth: np.ndarray, _: int) -> np.ndarray:
    """Return depth in millimetres as grey values, float64 of the same shape: 0 where nothing was hit."""
    far = float(depth.max())
    return np.where(depth > 0, far - depth, 0.0)


DRAW = {
    "photograph": lambda part, _: part.mean(2),
    "frame": lambda part, number: part[number].mean(2),
    "depth_map": near_is_bright,
    "spectrogram": lambda part, _: spectrogram(part),
}


def fit(grey: np.ndarray, whole: bool) -> np.ndarray:
    """Return a grey picture as float32 ``[SIDE, SIDE // 2]``: squeezed if ``whole``, otherwise its middle half."""
    from PIL import Image

    picture = Image.fromarray(grey.astype(np.float32))
    if whole:
        return np.asarray(picture.resize((SIDE // 2, SIDE), Image.Resampling.BILINEAR))
    square = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    return square[:, SIDE // 4 : SIDE // 4 + SIDE // 2]


def ranks(grey: np.ndarray) -> np.ndarray:
    """Return the rank of each pixel as float32 in 0..1 of the same shape. Equal pixels are ranked by a fixed noise."""
    noise = np.random.default_rng(0).standard_normal(grey.shape) * 1e-3 * (np.ptp(grey) + 1e-9)
    order = (grey + noise).ravel().argsort().argsort()
    return (order.reshape(grey.shape) / grey.size).astype(np.float32)


def compose_veiled(_: str, parts: Sequence[Part], path: Path, rnd: random.Random) -> None:
    """Write a picture of the first half of the parts, with a picture of the others laid over it."""
    from PIL import Image

    shown = [part for part in parts if not isinstance(part, str)]
    half = len(shown) // 2
    weight = LARGEST_VEIL * rnd.random()
    mixed = (1 - weight) * np.concatenate(shown[:half], axis=1) + weight * np.concatenate(shown[half:], axis=1)
    Image.fromarray(np.round(255 * mixed).astype(np.uint8)).save(path, quality=88)
