#!/usr/bin/env python3
"""Compose streams from the demo's media that ask when knowledge of other tasks and modalities helps.

- ``long``: which of two things comes first, as in ``order``, for 16 of the 28 pairs of the eight labels. With both
  orders of a pair that is 32 classes a modality, with few samples each.
- ``scarce``: the same for four pairs in image, depth, audio and video, with enough training samples to learn one
  modality well. The config then limits the samples of another one that comes late. In these videos the two things are
  side by side. So all four modalities share one relation: the first thing is on the left, in a spectrogram too.
- ``masked``: the same as grey pictures of one histogram, in four modalities of one file kind. A picture of another
  modality lies over each, so that the modality can be missed. ``picture_modalities.py`` registers the modalities.
- ``shared``: which of four places hold something. Image, depth, audio and video share these classes.

``python demo/streams.py OUT`` writes all of them to folders in OUT, each with a manifest and class texts. The same seed
and library versions give the same bytes. A sample is composed from files of its own split alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from clips import write_video
from order import main, neighbours, order_classes
from pictures import DOMAINS, Pictures, compose_veiled
from stream_parts import FPS, PHRASES, Media, Part
from stream_writer import EMPTY, Class, Recipe, compose, tile, write_stream

SIZES = {
    "long": {"train": 16, "val": 6, "test": 10},  # samples of a class
    "scarce": {"train": 40, "val": 12, "test": 24},
    "masked": {"train": 40, "val": 12, "test": 16},
    "shared": {"train": 40, "val": 12, "test": 16},
}
PICTURES = ("image", "depth", "audio", "video")  # the modalities that become pictures


def sixteen_pairs(labels: Sequence[str]) -> list[tuple[str, str]]:
    """Return 16 pairs of eight labels, each label in four of them.

    The pairs at places 0 and 1, 2 and 3, and so on, have no label in common. A task may take two of them.
    """
    pairs = []
    for start, step in ((0, 1), (1, 1), (0, 2), (2, 2)):
        firsts = [(start + k) % 8 for k in ((0, 2, 4, 6) if step == 1 else (0, 1, 4, 5))]
        pairs += [(labels[k], labels[(k + step) % 8]) for k in firsts]
    return pairs


def compose_side_by_side(modality: str, parts: Sequence[Part], path: Path, rnd: random.Random) -> None:
    """Write one sample; a video shows its two things at once, the first one on the left."""
    if modality != "video":
        compose(modality, parts, path, rnd)
        return
    clips = [part for part in parts if not isinstance(part, str)]
    write_video(path, [tile(frames) for frames in zip(*clips)], FPS)


def where_classes() -> dict[str, Class]:
    """Return (class text, four things) by class name: a thing at one of four places alone, or at all others."""
    out: dict[str, Class] = {}
    for k, place in enumerate(("first", "second", "third", "last")):
        out[f"only_{place}"] = (f"something at the {place} place alone", [None if n == k else EMPTY for n in range(4)])
        out[f"not_{place}"] = (
            f"something everywhere but at the {place} place",
            [EMPTY if n == k else None for n in range(4)],
        )
    return out


def build_long(media: Media, out: Path, seed: int) -> int:
    """Write the stream ``long`` and return its number of samples."""
    classes = {m: order_classes(m, sixteen_pairs(media.labels(m))) for m in PHRASES}
    return write_stream(media, out, classes, Recipe(SIZES["long"]), seed=f"{seed}/long")


def build_scarce(media: Media, out: Path, seed: int) -> int:
    """Write the stream ``scarce`` and return its number of samples."""
    classes = {m: order_classes(m, neighbours(media.labels(m)), side_by_side=m == "video") for m in PICTURES}
    return write_stream(media, out, classes, Recipe(SIZES["scarce"], compose_side_by_side), seed=f"{seed}/scarce")


def build_masked(media: Media, out: Path, seed: int) -> int:
    """Write the stream ``masked`` and return its number of samples."""
    pictures = Pictures(media)
    labels = {m: pictures.labels(m) for m in DOMAINS}
    classes = {m: order_classes(DOMAINS[m], neighbours(names), side_by_side=True) for m, names in labels.items()}
    recipe = Recipe(SIZES["masked"], compose_veiled, dict.fromkeys(DOMAINS, "jpg"), veils=labels)
    return write_stream(pictures, out, classes, recipe, seed=f"{seed}/masked")


def build_shared(media: Media, out: Path, seed: int) -> int:
    """Write the stream ``shared`` and return its number of samples."""
    recipe = Recipe(SIZES["shared"], others={m: media.labels(m) for m in PICTURES})
    return write_stream(media, out, dict.fromkeys(PICTURES, where_classes()), recipe, seed=f"{seed}/shared")


BUILDERS: dict[str, Callable[[Media, Path, int], int]] = {
    "long": build_long,
    "scarce": build_scarce,
    "masked": build_masked,
    "shared": build_shared,
}


if __name__ == "__main__":
    main(BUILDERS, __doc__.splitlines()[0])
