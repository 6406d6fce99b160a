"""Tests of the demo's media files: the manifest, the splits, and some files decoded by other libraries."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parents[1] / "demo"
MODALITIES = ("image", "audio", "depth", "video", "text")
SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def lines() -> list[dict]:
    """Return the lines of the manifest."""
    return [json.loads(line) for line in (DEMO / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]


def every_nth(lines: list[dict], modality: str, step: int) -> list[Path]:
    """Return every ``step``-th file of a modality."""
    return [DEMO / x["path"] for x in lines if x["modality"] == modality][::step]


def test_manifest_is_well_formed_and_complete(lines):
    for x in lines:
        assert set(x) == {"path", "modality", "label", "split", "source", "group"} and all(x.values())
        assert x["modality"] in MODALITIES and x["split"] in SPLITS
        path = Path(x["path"])
        assert path.parts[:3] == (x["modality"], x["split"], x["label"]) and path.stem.isdigit()
    paths = [x["path"] for x in lines]
    assert len(set(paths)) == len(paths)
    on_disk = [p for m in MODALITIES for p in (DEMO / m).rglob("*") if p.is_file()]
    assert {p.relative_to(DEMO).as_posix() for p in on_disk} == set(paths)


def test_forty_classes_with_texts_in_every_split(lines):
    texts = json.loads((DEMO / "classes.json").read_text(encoding="utf-8"))
    assert set(texts) == set(MODALITIES)
    count: dict = defaultdict(int)
    for x in lines:
        count[x["modality"], x["label"], x["split"]] += 1
    for modality in MODALITIES:
        classes = {m_label for m, m_label, _ in count if m == modality}
        assert len(classes) == 8 and set(texts[modality]) == classes
        assert len(set(texts[modality].values())) == 8
        for label in classes:
            floor = {"train": 25, "val": 2, "test": 6}
            assert all(count[modality, label, split] >= floor[split] for split in SPLITS), (modality, label)


def test_no_content_twice(lines):
    seen: dict[str, str] = {}
    for x in lines:
        digest = hashlib.sha256((DEMO / x["path"]).read_bytes()).hexdigest()
        assert digest not in seen, f"{x['path']} equals {seen[digest]}"
        seen[digest] = x["path"]


def test_splits_share_no_source(lines):
    """Each photo, group of near-duplicates, pitch, mesh, animation and synset is in one split only."""
    split_of: dict = {}
    for x in lines:
        keys = x["source"].split("/") if x["modality"] == "image" else [x["source"]]
        assert x["group"] == keys[-1]
        for key in keys:
            assert split_of.setdefault((x["modality"], key), x["split"]) == x["split"], x
    videos = [x for x in lines if x["modality"] == "video"]
    assert {x["split"] for x in videos if x["source"].startswith("woman:")} == {"test"}
    assert {x["source"].split(":")[0] for x in videos if x["split"] == "test"} == {"woman"}


def test_size_and_attribution(lines):
    streams = {"order", "place", "long", "scarce", "masked", "shared"}  # demo/order.py and demo/streams.py write them
    not_stored = {"__pycache__"} | streams
    files = [p for p in DEMO.rglob("*") if p.is_file() and not not_stored & set(p.relative_to(DEMO).parts)]
    assert sum(p.stat().st_size for p in files) <= 24e6
    rows = (DEMO / "ATTRIBUTION-furniture.md").read_text(encoding="utf-8")
    for mesh in {x["source"] for x in lines if x["modality"] == "depth"}:
        row = next(line for line in rows.splitlines() if f"| {mesh} |" in line)
        assert "CC0" in row or "CC BY 3.0" in row


def test_images_and_depth_maps_decode(lines):
    image = pytest.importorskip("PIL.Image")
    numpy = pytest.importorskip("numpy")
    for path in every_nth(lines, "image", 60):
        with image.open(path) as im:
            assert im.format == "JPEG" and max(im.convert("RGB").size) == 256
    for path in every_nth(lines, "depth", 60):
        with image.open(path) as im:
            assert im.format == "PNG" and im.mode.startswith("I")
            depth = numpy.asarray(im)
        assert depth.shape == (160, 160)
        assert depth[depth > 0].min() > 100 and depth.max() < 20_000


def test_sounds_decode(lines):
    soundfile = pytest.importorskip("soundfile")
    numpy = pytest.importorskip("numpy")
    formats = {}
    for x in lines:
        if x["modality"] == "audio":
            formats.setdefault(Path(x["path"]).suffix, DEMO / x["path"])
    assert {".ogg", ".mp3", ".flac", ".opus"} <= set(formats)
    for path in [*formats.values(), *every_nth(lines, "audio", 60)]:
        wave, rate = soundfile.read(path)
        assert wave.ndim == 1 and 0.5 < len(wave) / rate < 4 and numpy.abs(wave).max() > 0.02


def test_videos_decode_and_move(lines):
    av = pytest.importorskip("av")
    numpy = pytest.importorskip("numpy")
    codecs = set()
    for path in every_nth(lines, "video", 24):
        with av.open(str(path)) as clip:
            codecs.add(clip.streams.video[0].codec_context.name)
            frames = [f.to_ndarray(format="gray").astype(float) for f in clip.decode(video=0)]
        assert len(frames) >= 10 and frames[0].shape == (144, 144)
        assert max(numpy.abs(f - frames[0]).mean() for f in frames) > 0.2, path
    assert codecs == {"h264", "vp9"} or codecs == {"h264", "libvpx-vp9"}


def test_texts_are_sentences_without_markup(lines):
    for path in every_nth(lines, "text", 1):
        text = path.read_text(encoding="utf-8").strip()
        assert len(text.split()) >= 6 and "|" not in text and "\n" not in text
