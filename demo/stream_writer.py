"""Write a stream of samples that each show several of the demo's files, side by side or one after the other."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from clips import write_audio, write_video
from stream_parts import FPS, FRAMES, RATE, SECONDS, Media, Part

Class = tuple[str, list[str | None]]  # class text, and the things that a sample shows in order
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


def write_stream(
    media: Media,
    out: Path,
    classes: Mapping[str, Mapping[str, Class]],
    sizes: Mapping[str, int],
    *,
    seed: str,
    others: Mapping[str, Sequence[str]] | None = None,
    distinct: bool = True,
    compose: Compose = compose,
    extension: Mapping[str, str] = EXTENSION,
) -> int:
    """Write one stream, with manifest and class texts, and return its number of samples.

    A sample is composed from files of its own split alone.

    Args:
        media: the demo's files.
        out: the folder to write.
        classes: modality -> name -> class. A thing None stands for one of ``others``, drawn for each sample.
        sizes: split -> samples of a class.
        seed: chooses the files that each sample shows.
        others: modality -> labels that a thing None may be.
        distinct: no two samples of a class and split show the same files, where there are enough files.
        compose: writes one sample.
        extension: modality -> ending of its files.
    """
    lines: list[dict[str, str]] = []
    for modality, of_modality in classes.items():
        for name, (_, things) in of_modality.items():
            for split, size in sizes.items():
                rnd = random.Random(f"{seed}/{modality}/{name}/{split}")
                folder = out / modality / split / name
                folder.mkdir(parents=True, exist_ok=True)
                used: set[tuple[tuple[str, int], ...]] = set()
                for n in range(size):
                    for _ in range(ATTEMPTS if distinct else 1):
                        other = rnd.choice((others or {}).get(modality, [""]))
                        chosen = [thing or other for thing in things]
                        picks = [(label, rnd.randrange(media.count(modality, split, label))) for label in chosen]
                        if tuple(picks) not in used:
                            break
                    used.add(tuple(picks))
                    path = folder / f"{n:03d}.{extension[modality]}"
                    compose(modality, [media.part(modality, split, label, k) for label, k in picks], path, rnd)
                    groups = {media.groups[modality, split, label][k] for label, k in picks}
                    lines.append(
                        {
                            "path": path.relative_to(out).as_posix(),
                            "modality": modality,
                            "label": name,
                            "split": split,
                            "source": " ".join(f"{label}/{k}" for label, k in picks),
                            "group": " ".join(sorted(groups)),
                        }
                    )
    texts = {modality: {name: text for name, (text, _) in made.items()} for modality, made in classes.items()}
    (out / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (out / "classes.json").write_text(json.dumps(texts, indent=1) + "\n", encoding="utf-8")
    return len(lines)
