#!/usr/bin/env python3
"""Two streams in which it matters where or when a thing is, composed from the demo media: ``order`` and ``place``.

The demo's own classes can be told from the mean of an encoder's frozen features, so that nothing which learns can do
better than a ridge on them. Here a sample shows several things, and its class is

- ``order``: which of two comes first (sounds, clips and sentences: in time; pictures and depth maps: on the left);
- ``place``: which of four places holds the thing that the class names; the others hold things of one other kind.

``python demo/order.py OUT`` writes OUT/order and OUT/place, each with a manifest and class texts; the same seed and
library versions give the same bytes. A sample of a split is composed from demo files of that split alone. Pictures are
JPEG, depth maps 16-bit PNG, sounds FLAC, clips H.264 in mp4; nothing is lost of the demo's own splits.
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
SIDE = {"image": 224, "depth": 160, "video": 96}
RATE, SECONDS, FRAMES, FPS = 22_050, 2.4, 20, 10
SEEN = {
    "image": "a photo of",
    "depth": "a depth map of",
    "audio": "the sound of",
    "video": "a video of",
    "text": "text",
}
WHERE = {
    "image": ("at the top left", "at the top right", "at the bottom left", "at the bottom right"),
    "video": ("first", "second", "third", "last"),
}
WHERE |= {"depth": WHERE["image"], "audio": WHERE["video"], "text": WHERE["video"]}
Part = np.ndarray | str


def words(label: str) -> str:
    """``granny_smith_apple`` -> ``granny smith apple``."""
    return label.replace("_", " ")


def order_classes(modality: str, labels: Sequence[str]) -> dict[str, tuple[str, list[str]]]:
    """Name -> (text, the things in their order): neighbours in the list of labels, in both orders."""
    out = {}
    then = "to the left of" if modality in ("image", "depth") else "and then"
    for a, b in zip(labels[::2], labels[1::2]):
        for first, second in ((a, b), (b, a)):
            name = f"{first}_before_{second}"
            out[name] = (f"{SEEN[modality]} {words(first)} {then} {words(second)}", [first, second])
    return out


def place_classes(modality: str, labels: Sequence[str]) -> dict[str, tuple[str, list[str | None]]]:
    """Name -> (text, four things, None for any other): the first two labels, each at every place."""
    out = {}
    for label in labels[:2]:
        for k, where in enumerate(WHERE[modality]):
            things = [label if n == k else None for n in range(4)]
            out[f"{label}_{where.removeprefix('at the ').replace(' ', '_')}"] = (
                f"{SEEN[modality]} {words(label)} {where}",
                things,
            )
    return out


class Media:
    """The demo's files, read once each, and how several become one."""

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
        return len(self.files[modality, split, label]) or len(self.texts[modality, split, label])

    def part(self, modality: str, split: str, label: str, number: int) -> Part:
        if texts := self.texts[modality, split, label]:
            return texts[number]
        path = self.files[modality, split, label][number]
        if path not in self._read:
            self._read[path] = READ[modality](path)
        return self._read[path]


def read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()


def read_image(path: Path) -> np.ndarray:
    """uint8 ``[S, S, 3]``: the square in the middle."""
    from PIL import Image, ImageOps

    with Image.open(path) as im:
        return np.asarray(ImageOps.fit(im.convert("RGB"), (SIDE["image"],) * 2))


def read_depth(path: Path) -> np.ndarray:
    """uint16 ``[S, S]``, millimetres."""
    from PIL import Image

    with Image.open(path) as im:
        return np.asarray(im.resize((SIDE["depth"],) * 2, Image.Resampling.NEAREST)).astype(np.uint16)


def read_audio(path: Path) -> np.ndarray:
    """float32 ``[n]`` at ``RATE``."""
    import soundfile
    from scipy.signal import resample_poly

    wave, rate = soundfile.read(path, dtype="float64", always_2d=True)
    return resample_poly(wave.mean(1), RATE, rate).astype(np.float32)


def read_video(path: Path) -> np.ndarray:
    """uint8 ``[FRAMES, S, S, 3]``."""
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


def beside(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Two: the middle halves, left and right; four: a square of quarters."""
    side = parts[0].shape[0]
    if len(parts) == 2:
        return np.concatenate([p[:, side // 4 : side // 4 + side // 2] for p in parts], axis=1)
    small = [p[::2, ::2] for p in parts]
    return np.concatenate([np.concatenate(small[:2], axis=1), np.concatenate(small[2:], axis=1)])


def one_by_one(parts: Sequence[np.ndarray], size: int, rnd: random.Random, moving: bool) -> np.ndarray:
    """Equal stretches of each, in turn; a clip's may begin anywhere, a note begins with its onset and fades out."""
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
    from PIL import Image

    arrays = [part for part in parts if not isinstance(part, str)]
    if modality == "text":
        path.write_text(" ".join(f"{str(p).rstrip('.;')}." for p in parts) + "\n", encoding="utf-8")
    elif modality == "image":
        Image.fromarray(beside(arrays)).save(path, quality=88)
    elif modality == "depth":
        Image.fromarray(beside(arrays)).save(path)
    elif modality == "audio":
        write_audio(path, one_by_one(arrays, int(RATE * SECONDS), rnd, moving=False), RATE)
    else:
        write_video(path, list(one_by_one(arrays, FRAMES, rnd, moving=True)), FPS)


EXTENSION = {"image": "jpg", "depth": "png", "audio": "flac", "video": "mp4", "text": "txt"}


def build(media: Media, out: Path, kind: str, seed: int) -> int:
    """Write one stream; returns how many samples it has."""
    lines, texts = [], {}
    labels_of: dict[str, list[str]] = defaultdict(list)
    for modality, split, label in [*media.files, *media.texts]:
        if split == "train" and label not in labels_of[modality] and media.count(modality, split, label):
            labels_of[modality].append(label)
    for modality in SEEN:
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
                    shown = [thing or other for thing in things]
                    numbers = [rnd.randrange(media.count(modality, split, label)) for label in shown]
                    path = folder / f"{n:03d}.{EXTENSION[modality]}"
                    parts = [media.part(modality, split, label, k) for label, k in zip(shown, numbers)]
                    compose(modality, parts, path, rnd)
                    source = " ".join(f"{label}/{k}" for label, k in zip(shown, numbers))
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write order/ and place/ to")
    parser.add_argument("--demo", type=Path, default=HERE, help="the demo media")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    media = Media(arguments.demo)
    for kind in ("order", "place"):
        print(f"{arguments.out / kind}: {build(media, arguments.out / kind, kind, arguments.seed)} samples")


if __name__ == "__main__":
    main()
