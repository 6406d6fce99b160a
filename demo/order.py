#!/usr/bin/env python3
"""Compose two streams from the demo's media, ``order`` and ``place``: the class depends on where or when a thing is.

The mean of an encoder's frozen features separates the demo's own classes. No training can do better there than ridge
regression on these features. In these streams a sample shows several things, and its class is:

- ``order``: which of two things comes first. In audio, video and text: earlier; in images and depth maps: on the left.
- ``place``: which of four places holds the thing that the class names. The other places hold things of one other class.

``python demo/order.py OUT`` writes OUT/order and OUT/place, each with a manifest and class texts. The same seed and
library versions give the same bytes. A sample is composed from files of its own split alone. Images are JPEG, depth
maps 16-bit PNG, audio FLAC, and video H.264 in mp4.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from clips import write_audio, write_video

HERE = Path(__file__).resolve().parent
SIZES = {"train": 40, "val": 12, "test": 16}  # samples of a class
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
PLACES = {
    "image": ("at the top left", "at the top right", "at the bottom left", "at the bottom right"),
    "video": ("first", "second", "third", "last"),
}
PLACES |= {"depth": PLACES["image"], "audio": PLACES["video"], "text": PLACES["video"]}
Part = np.ndarray | str


def label_words(label: str) -> str:
    """Return a label with spaces: ``granny_smith_apple`` gives ``granny smith apple``."""
    return label.replace("_", " ")


def order_classes(modality: str, labels: Sequence[str]) -> dict[str, tuple[str, list[str]]]:
    """Return (class text, the two things in order) by class name: neighbours in ``labels``, in both orders."""
    out = {}
    then = "to the left of" if modality in ("image", "depth") else "and then"
    for a, b in zip(labels[::2], labels[1::2]):
        for first, second in ((a, b), (b, a)):
            name = f"{first}_before_{second}"
            out[name] = (f"{PHRASES[modality]} {label_words(first)} {then} {label_words(second)}", [first, second])
    return out


def place_classes(modality: str, labels: Sequence[str]) -> dict[str, tuple[str, list[str | None]]]:
    """Return (class text, four things) by class name: each of the first two labels at every place.

    The thing None stands for another class.
    """
    out = {}
    for label in labels[:2]:
        for k, place in enumerate(PLACES[modality]):
            things = [label if n == k else None for n in range(4)]
            out[f"{label}_{place.removeprefix('at the ').replace(' ', '_')}"] = (
                f"{PHRASES[modality]} {label_words(label)} {place}",
                things,
            )
    return out


class Media:
    """The demo's files; each is read once.

    Attributes:
        files: paths by modality, split and label.
        texts: texts by modality, split and label, for texts that stand in the manifest itself.
    """

    def __init__(self, demo: Path):
        self.files: dict[tuple[str, str, str], list[Path]] = defaultdict(list)
        self.texts: dict[tuple[str, str, str], list[str]] = defaultdict(list)
        for line in (demo / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            key = (row["modality"], row["split"], row["label"])
            if "path" in row:
                self.files[key].append(demo / row["path"])
            else:
                self.texts[key].append(row["text"])
        self._read: dict[Path, Part] = {}

    def count(self, modality: str, split: str, label: str) -> int:
        """Return the number of samples of a class in a split."""
        return len(self.files[modality, split, label]) or len(self.texts[modality, split, label])

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


def tile(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return one picture: the middle halves of two parts, left and right, or four parts at half size in a square."""
    side = parts[0].shape[0]
    if len(parts) == 2:
        return np.concatenate([p[:, side // 4 : side // 4 + side // 2] for p in parts], axis=1)
    small = [p[::2, ::2] for p in parts]
    return np.concatenate([np.concatenate(small[:2], axis=1), np.concatenate(small[2:], axis=1)])


def concatenate_in_time(parts: Sequence[np.ndarray], size: int, rnd: random.Random, moving: bool) -> np.ndarray:
    """Return equal stretches of the parts, one after the other, ``size`` frames or samples in all.

    Args:
        parts: video frames or waves, time first.
        size: length of the result.
        rnd: chooses where a video's stretch begins.
        moving: True: video; False: audio, where a stretch begins with the note's onset and fades out.
    """
    each, out = size // len(parts), []
    for part in parts:
        first = rnd.randrange(len(part) - each + 1) if moving and len(part) > each else 0
        piece = part[first : first + each].copy()
        if not moving:
            piece = np.pad(piece, (0, each - len(piece)))
            piece[-RATE // 50 :] *= np.linspace(1, 0, RATE // 50, dtype=np.float32)
        out.append(piece)
    return np.concatenate(out)


def compose(modality: str, parts: Sequence[Part], path: Path, rnd: random.Random) -> None:
    """Write one sample that shows all parts."""
    from PIL import Image

    arrays = [part for part in parts if not isinstance(part, str)]
    if modality == "text":
        path.write_text(" ".join(f"{str(p).rstrip('.;')}." for p in parts) + "\n", encoding="utf-8")
    elif modality == "image":
        Image.fromarray(tile(arrays)).save(path, quality=88)
    elif modality == "depth":
        Image.fromarray(tile(arrays)).save(path)
    elif modality == "audio":
        write_audio(path, concatenate_in_time(arrays, int(RATE * SECONDS), rnd, moving=False), RATE)
    else:
        write_video(path, list(concatenate_in_time(arrays, FRAMES, rnd, moving=True)), FPS)


EXTENSION = {"image": "jpg", "depth": "png", "audio": "flac", "video": "mp4", "text": "txt"}


def build(media: Media, out: Path, kind: str, seed: int) -> int:
    """Write one stream, and return its number of samples.

    Args:
        media: the demo's files.
        out: the folder to write.
        kind: "order" or "place".
        seed: chooses the samples' parts.
    """
    lines, texts = [], {}
    labels_of: dict[str, list[str]] = defaultdict(list)
    for modality, split, label in [*media.files, *media.texts]:
        if split == "train" and label not in labels_of[modality] and media.count(modality, split, label):
            labels_of[modality].append(label)
    for modality in PHRASES:
        labels = sorted(labels_of[modality])
        classes = (order_classes if kind == "order" else place_classes)(modality, labels)
        texts[modality] = {name: text for name, (text, _) in classes.items()}
        others = labels[2:]
        for name, (_, things) in classes.items():
            for split, size in SIZES.items():
                rnd = random.Random(f"{seed}/{kind}/{modality}/{name}/{split}")
                folder = out / modality / split / name
                folder.mkdir(parents=True, exist_ok=True)
                for n in range(size):
                    other = rnd.choice(others)
                    chosen = [thing or other for thing in things]
                    numbers = [rnd.randrange(media.count(modality, split, label)) for label in chosen]
                    path = folder / f"{n:03d}.{EXTENSION[modality]}"
                    parts = [media.part(modality, split, label, k) for label, k in zip(chosen, numbers)]
                    compose(modality, parts, path, rnd)
                    source = " ".join(f"{label}/{k}" for label, k in zip(chosen, numbers))
                    lines.append(
                        {
                            "path": path.relative_to(out).as_posix(),
                            "modality": modality,
                            "label": name,
                            "split": split,
                            "source": source,
                        }
                    )
    (out / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (out / "classes.json").write_text(json.dumps(texts, indent=1) + "\n", encoding="utf-8")
    return len(lines)


def main() -> None:
    """Parse the command line and write both streams."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write order/ and place/ to")
    parser.add_argument(
        "--demo", type=Path, default=HERE, help="folder of the demo's media (default: the script's folder)"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    media = Media(arguments.demo)
    for kind in ("order", "place"):
        print(f"{arguments.out / kind}: {build(media, arguments.out / kind, kind, arguments.seed)} samples")


if __name__ == "__main__":
    main()
