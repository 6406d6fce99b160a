#!/usr/bin/env python3
"""Compose two streams from the demo's media, ``order`` and ``place``: the class depends on where or when a thing is.

The mean of an encoder's frozen features separates the demo's own classes. No training can do better there than ridge
regression on these features. In these streams a sample shows several things, and its class is:

- ``order``: which of two things comes first. In audio, video and text: earlier; in images and depth maps: on the left.
- ``place``: which of four places holds the thing that the class names. The other places hold things of one other class.

``python demo/order.py OUT`` writes OUT/order and OUT/place, each with a manifest and class texts. The same seed and
library versions give the same bytes. A sample is composed from files of its own split alone. Images are JPEG, depth
maps 16-bit PNG, audio FLAC, and video H.264 in mp4. ``streams.py`` writes more streams.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from stream_parts import PHRASES, Media
from stream_writer import Class, Recipe, write_stream

HERE = Path(__file__).resolve().parent
SIZES = {"train": 40, "val": 12, "test": 16}  # samples of a class
PLACES = {
    "image": ("at the top left", "at the top right", "at the bottom left", "at the bottom right"),
    "video": ("first", "second", "third", "last"),
}
PLACES |= {"depth": PLACES["image"], "audio": PLACES["video"], "text": PLACES["video"]}


def label_words(label: str) -> str:
    """Return a label with spaces: ``granny_smith_apple`` gives ``granny smith apple``."""
    return label.replace("_", " ")


def order_classes(modality: str, pairs: Iterable[tuple[str, str]], *, side_by_side: bool = False) -> dict[str, Class]:
    """Return (class text, the two things in order) by class name: each pair in both orders.

    ``side_by_side``: the text says that the first thing is on the left, whatever the modality.
    """
    out: dict[str, Class] = {}
    then = "to the left of" if side_by_side or modality in ("image", "depth") else "and then"
    for a, b in pairs:
        for first, second in ((a, b), (b, a)):
            name = f"{first}_before_{second}"
            out[name] = (f"{PHRASES[modality]} {label_words(first)} {then} {label_words(second)}", [first, second])
    return out


def neighbours(labels: Sequence[str]) -> list[tuple[str, str]]:
    """Return the first and second label as a pair, the third and fourth, and so on."""
    return list(zip(labels[::2], labels[1::2]))


def place_classes(modality: str, labels: Sequence[str]) -> dict[str, Class]:
    """Return (class text, four things) by class name: each of the first two labels at every place.

    The thing None stands for another class.
    """
    out: dict[str, Class] = {}
    for label in labels[:2]:
        for k, place in enumerate(PLACES[modality]):
            things = [label if n == k else None for n in range(4)]
            out[f"{label}_{place.removeprefix('at the ').replace(' ', '_')}"] = (
                f"{PHRASES[modality]} {label_words(label)} {place}",
                things,
            )
    return out


def build(kind: str, media: Media, out: Path, seed: int) -> int:
    """Write one stream, and return its number of samples.

    Args:
        kind: "order" or "place".
        media: the demo's files.
        out: the folder to write.
        seed: chooses the samples' parts.
    """
    labels = {modality: media.labels(modality) for modality in PHRASES}
    if kind == "order":
        classes = {modality: order_classes(modality, neighbours(names)) for modality, names in labels.items()}
    else:
        classes = {modality: place_classes(modality, names) for modality, names in labels.items()}
    others = {modality: names[2:] for modality, names in labels.items()}
    # These two streams are older than ``distinct``: a sample may show the same files as another one.
    return write_stream(media, out, classes, Recipe(SIZES, others=others, distinct=False), seed=f"{seed}/{kind}")


def main(builders: dict[str, Callable[[Media, Path, int], int]], description: str) -> None:
    """Parse the command line and write streams.

    Args:
        builders: name of a stream -> what writes it from the demo's files to a folder, by a seed.
        description: for ``--help``.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write the streams to")
    parser.add_argument(
        "--demo", type=Path, default=HERE, help="folder of the demo's media (default: the script's folder)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=builders, action="append", help="write these streams only")
    arguments = parser.parse_args()
    media = Media(arguments.demo)
    for name in arguments.only or list(builders):
        print(f"{arguments.out / name}: {builders[name](media, arguments.out / name, arguments.seed)} samples")


if __name__ == "__main__":
    main({kind: partial(build, kind) for kind in ("order", "place")}, __doc__.splitlines()[0])
