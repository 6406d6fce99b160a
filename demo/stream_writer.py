"""Write a stream of samples that each show several of the demo's files, side by side or one after the other."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from clips import write_audio, write_video
from stream_parts import FPS, FRAMES, RATE, SECONDS, Part

Class = tuple[str, list[str | None]]  # class text, and the things that a sample shows in order
EMPTY = ""  # the thing at a place without a thing
ATTEMPTS = 100  # to find files that no earlier sample shows together
Compose = Callable[[str, Sequence[Part], Path, random.Random], None]


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


class Source(Protocol):
    """Parts of new samples, by modality, split, label and number."""

    def count(self, modality: str, split: str, label: str) -> int:
        """Return the number of parts of a class in a split."""

    def part(self, modality: str, split: str, label: str, number: int) -> Part:
        """Return one part."""

    def group(self, modality: str, split: str, label: str, number: int) -> str:
        """Return the name of the photo group, pitch, mesh, animation or synset that a part comes from."""


@dataclass(frozen=True)
class Draw:
    """The parts of one sample.

    Attributes:
        parts: (modality, label, number) of the part at each place; None where the place is empty.
        veil: the same of the parts that cover it; see ``Recipe``.
    """

    parts: tuple[tuple[str, str, int] | None, ...]
    veil: tuple[tuple[str, str, int], ...] = ()


@dataclass(frozen=True)
class Recipe:
    """The way in which the samples of a stream are composed.

    Attributes:
        sizes: split -> samples of a class.
        compose: writes one sample.
        extension: modality -> ending of its files.
        others: modality -> labels that a thing None may be, drawn for each sample.
        distinct: no two samples of a class and split show the same files, where there are enough files.
        veils: modality -> labels; things of one other modality follow the sample's own things.
    """

    sizes: Mapping[str, int]
    compose: Compose = compose
    extension: Mapping[str, str] = field(default_factory=lambda: EXTENSION)
    others: Mapping[str, Sequence[str]] = field(default_factory=dict)
    distinct: bool = True
    veils: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def draw(self, media: Source, modality: str, split: str, things: Sequence[str | None], rnd: random.Random) -> Draw:
        """Choose the parts of one sample."""
        other = rnd.choice(self.others.get(modality, [EMPTY]))
        chosen = [other if thing is None else thing for thing in things]
        parts = tuple(
            (modality, label, rnd.randrange(media.count(modality, split, label))) if label else None for label in chosen
        )
        veil: list[tuple[str, str, int]] = []
        if self.veils:
            foreign = rnd.choice([name for name in self.veils if name != modality])
            for label in rnd.sample(self.veils[foreign], len(things)):
                veil.append((foreign, label, rnd.randrange(media.count(foreign, split, label))))
        return Draw(parts, tuple(veil))


def empty_like(modality: str, part: Part) -> Part:
    """Return an empty place beside a part: its mean colour, depth without a hit, or silence."""
    if isinstance(part, str):
        raise ValueError("a text has no empty place")
    if modality in ("image", "video"):
        colour = part.reshape(-1, 3).mean(0).astype(part.dtype)
        return np.broadcast_to(colour, part.shape)
    return np.zeros_like(part)


def write_stream(
    media: Source, out: Path, classes: Mapping[str, Mapping[str, Class]], recipe: Recipe, *, seed: str
) -> int:
    """Write one stream, with manifest and class texts, and return its number of samples.

    A sample is composed from files of its own split alone. It belongs to the group of one part: of the first thing that
    the class names, or else of the first thing that is shown.

    Args:
        media: the parts.
        out: the folder to write.
        classes: modality -> name -> class.
        recipe: how its samples are composed.
        seed: chooses the parts of each sample.
    """
    lines: list[dict[str, str]] = []
    for modality, of_modality in classes.items():
        for name, (_, things) in of_modality.items():
            for split, size in recipe.sizes.items():
                rnd = random.Random(f"{seed}/{modality}/{name}/{split}")
                folder = out / modality / split / name
                folder.mkdir(parents=True, exist_ok=True)
                used = set()
                for n in range(size):
                    for _ in range(ATTEMPTS if recipe.distinct else 1):
                        draw = recipe.draw(media, modality, split, things, rnd)
                        if draw.parts not in used:
                            break
                    used.add(draw.parts)
                    parts = [part and media.part(part[0], split, *part[1:]) for part in (*draw.parts, *draw.veil)]
                    shown = next(part for part in parts if part is not None)
                    path = folder / f"{n:03d}.{recipe.extension[modality]}"
                    filled = [empty_like(modality, shown) if part is None else part for part in parts]
                    recipe.compose(modality, filled, path, rnd)
                    own = [part for part in draw.parts if part]
                    named = [part for thing, part in zip(things, draw.parts) if thing and part]
                    first = (named or own)[0]
                    lines.append(
                        {
                            "path": path.relative_to(out).as_posix(),
                            "modality": modality,
                            "label": name,
                            "split": split,
                            "source": " ".join(f"{label}/{number}" for _, label, number in (*own, *draw.veil)),
                            "group": media.group(first[0], split, *first[1:]),
                        }
                    )
    texts = {modality: {name: text for name, (text, _) in made.items()} for modality, made in classes.items()}
    (out / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (out / "classes.json").write_text(json.dumps(texts, indent=1) + "\n", encoding="utf-8")
    return len(lines)
