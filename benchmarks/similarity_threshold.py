"""Similarity of altered copies of a file, and of different files of a class, by the trunk's pooled features.

python -m benchmarks.similarity_threshold [--files N] [--out FILE.md]

The default of ``stream.group_similarity`` is chosen by it. For each threshold the table has the share of altered copies
that are found. It also has the share of files with a different file above the threshold. Files of one group of the
demo's manifest are different takes of one recording, and have a row of their own.
"""

from __future__ import annotations

import argparse
import platform
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from mmcl_fast.encoders import Encoder, load_encoder
from mmcl_fast.feature_cache.cache import FeatureCache
from mmcl_fast.streams import Sample, Stream
from mmcl_fast.streams.grouping import JoinedGroups

THRESHOLDS = (0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995, 0.999)


def image_copies(sample: Sample, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield (alteration, file) of a picture."""
    picture = Image.open(sample.path).convert("RGB")  # type: ignore[arg-type]
    w, h = picture.size
    versions = {
        "jpeg 60": (picture, 60),
        "half size": (picture.resize((max(1, w // 2), max(1, h // 2))), 90),
        "crop 90 %": (picture.crop((w // 20, h // 20, w - w // 20, h - h // 20)), 90),
        "crop 75 %": (picture.crop((w // 8, h // 8, w - w // 8, h - h // 8)), 90),
        "brighter": (picture.point(lambda v: min(255, int(v * 1.2))), 90),
        "mirrored": (picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 90),
    }
    for name, (version, quality) in versions.items():
        file = folder / f"{name}.jpg".replace(" ", "_").replace("%", "")
        version.save(file, quality=quality)
        yield name, file


def audio_copies(sample: Sample, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield (alteration, file) of a recording."""
    import soundfile

    sound, rate = soundfile.read(str(sample.path), dtype="float32", always_2d=True)
    cut = max(1, len(sound) // 20)
    noise = np.random.default_rng(0).normal(0, 0.01 * float(sound.std() + 1e-9), sound.shape).astype(np.float32)
    versions = {
        "half as loud": (sound * 0.5, rate, "wav"),
        "cut 10 %": (sound[cut:-cut], rate, "wav"),
        "noise -40 dB": (sound + noise, rate, "wav"),
        "ogg": (sound, rate, "ogg"),
    }
    for name, (version, at, ending) in versions.items():
        file = folder / f"{name}.{ending}".replace(" ", "_").replace("%", "")
        soundfile.write(str(file), np.clip(version, -1, 1), at)
        yield name, file


def text_copies(sample: Sample, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield (alteration, file) of a text."""
    text = sample.text or Path(str(sample.path)).read_text(encoding="utf-8")
    words = text.split()
    versions = {
        "lower case": text.lower(),
        "first word gone": " ".join(words[1:]) or text,
        "last tenth gone": " ".join(words[: max(1, len(words) - max(1, len(words) // 10))]),
    }
    for name, version in versions.items():
        file = folder / f"{name}.txt".replace(" ", "_")
        file.write_text(version, encoding="utf-8")
        yield name, file


def depth_copies(sample: Sample, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield (alteration, file) of a depth map."""
    values = np.array(Image.open(sample.path))  # type: ignore[arg-type]
    h, w = values.shape[:2]
    noise = np.random.default_rng(0).normal(0, 3, values.shape)
    versions = {
        "crop 90 %": values[h // 20 : h - h // 20, w // 20 : w - w // 20],
        "half size": values[::2, ::2],
        "noise 3 units": np.where(values > 0, np.clip(values + noise, 1, 65535), 0).astype(np.uint16),
    }
    for name, version in versions.items():
        file = folder / f"{name}.png".replace(" ", "_").replace("%", "")
        Image.fromarray(np.ascontiguousarray(version).astype(np.uint16)).save(file)
        yield name, file


def video_copies(sample: Sample, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield (alteration, file) of a video: encoded again, smaller, and without its first tenth."""
    import av

    with av.open(str(sample.path)) as source:
        rate = source.streams.video[0].average_rate or 10
        frames = [frame.to_image() for frame in source.decode(video=0)]
    w, h = (side // 2 * 2 for side in frames[0].size)
    half = (max(2, w // 4 * 2), max(2, h // 4 * 2))
    versions = {"encoded again": (frames, (w, h)), "half size": (frames, half)}
    versions["first tenth gone"] = (frames[len(frames) // 10 :], (w, h))
    for name, (some, size) in versions.items():
        file = folder / f"{name}.mp4".replace(" ", "_")
        with av.open(str(file), "w") as target:
            stream = target.add_stream("mpeg4", rate=rate)
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            for frame in some:
                target.mux(stream.encode(av.VideoFrame.from_image(frame.resize(size))))
            target.mux(stream.encode())
        yield name, file


COPIES = {
    "image": image_copies,
    "audio": audio_copies,
    "depth": depth_copies,
    "text": text_copies,
    "video": video_copies,
}


def measure(modality: str, files: int, cache: FeatureCache, encoder: Encoder, folder: Path) -> dict:
    """Return the similarities of copies by alteration, and of each file's most similar different file."""
    samples = [s for s in Stream.demo().samples if s.modality == modality]
    chosen = random.Random(0).sample(samples, min(files, len(samples)))
    copies: dict[str, list[tuple[int, Sample]]] = {}
    for number, sample in enumerate(chosen):
        place = folder / modality / str(number)
        place.mkdir(parents=True)
        for name, file in COPIES[modality](sample, place):
            copy = replace(sample, path=file, text=None, key=f"{number}/{name}", sha256="")
            copies.setdefault(name, []).append((number, copy))
    q = F.normalize(cache.tokens(encoder, samples).query, dim=1)
    own = F.normalize(cache.tokens(encoder, chosen).query, dim=1)
    found = {}
    for name, some in copies.items():
        of_copies = F.normalize(cache.tokens(encoder, [copy for _, copy in some]).query, dim=1)
        found[name] = (of_copies * own[[number for number, _ in some]]).sum(1).tolist()
    similar = q @ q.T
    labels, groups = [s.label for s in samples], [s.group or s.key for s in samples]
    same_class = np.array([[a == b for b in labels] for a in labels])
    same_group = np.array([[a == b for b in groups] for a in groups])
    values = similar.numpy()
    nearest = np.where(same_class & ~same_group, values, -1).max(1)
    elsewhere = np.where(~same_class & ~same_group, values, -1).max(1)
    takes = values[same_group & ~np.eye(len(samples), dtype=bool)]
    return {
        "copies": found,
        "nearest file of its class": nearest.tolist(),
        "nearest file of other classes": elsewhere.tolist(),
        "one group": takes.tolist(),
        "largest group": largest_groups(values),
        "files": len(samples),
    }


def largest_groups(similar: np.ndarray) -> list[int]:
    """Return the size of the largest group at each threshold, as ``stream.group = "duplicates"`` would join them."""
    sizes = []
    for threshold in THRESHOLDS:
        groups = JoinedGroups([""] * len(similar))
        for pair in zip(*np.nonzero(np.triu(similar >= threshold, 1))):
            groups.join([int(position) for position in pair])
        names = groups.by_key([str(position) for position in range(len(similar))])
        sizes.append(max(Counter(names.values()).values(), default=1))
    return sizes


def table(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield f"| modality | pairs | number | {' | '.join(f'{t:g}' for t in THRESHOLDS)} |"
    yield "|---" * (3 + len(THRESHOLDS)) + "|"
    for modality, found in results.items():
        rows = {f"copy: {name}": values for name, values in found["copies"].items()}
        rows |= {name: found[name] for name in ("nearest file of its class", "nearest file of other classes")}
        rows |= {"in one group of the manifest": found["one group"]} if found["one group"] else {}
        for name, values in rows.items():
            shares = " | ".join(f"{100 * np.mean(np.array(values) >= t):.0f} %" for t in THRESHOLDS)
            yield f"| {modality} | {name} | {len(values)} | {shares} |"
        sizes = " | ".join(map(str, found["largest group"]))
        yield f"| {modality} | files of the largest group | {found['files']} | {sizes} |"


def main() -> None:
    """Print the table, and write it with ``--out``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=40, help="files of each modality that are altered")
    parser.add_argument("--modalities", nargs="*", default=list(COPIES))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    encoder, results = load_encoder("embedded"), {}
    with tempfile.TemporaryDirectory() as folder:
        for modality in arguments.modalities:
            results[modality] = measure(modality, arguments.files, FeatureCache(None), encoder, Path(folder))
    text = (
        f"# Similarity of altered copies and of different files\n\n`python -m benchmarks.similarity_threshold --files "
        f"{arguments.files}` on the demo's files, encoder `embedded`, {platform.machine()}, "
        f"{torch.backends.cpu.get_cpu_capability()}.\n\nEach cell is the share of pairs at or above a cosine "
        "similarity, or the size of a group.\n\n" + "\n".join(table(results)) + "\n"
    )
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
