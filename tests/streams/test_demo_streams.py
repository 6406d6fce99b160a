"""demo/streams.py: streams that ask when knowledge of other tasks and modalities helps."""

from __future__ import annotations

import importlib
import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mmcl_fast.config import load_config
from mmcl_fast.media import decode
from mmcl_fast.media.registry import REGISTRY
from mmcl_fast.media.spec import VisualSpec
from mmcl_fast.runs.make_stream import make_stream

DEMO = Path(__file__).parents[2] / "demo"
SIZES = {"train": 1, "val": 1, "test": 1}
# A few modalities of each stream, so that the tests are fast, and the classes of each.
MODALITIES = {
    "long": (("image", "depth", "text"), 32),
    "scarce": (("depth", "video"), 8),
    "masked": (("photograph", "frame", "depth_map", "spectrogram"), 8),
    "shared": (("image", "depth", "audio"), 8),
}


@pytest.fixture(scope="module")
def streams():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DEMO))
        module = importlib.import_module("streams")
        patch.setattr(module, "SIZES", dict.fromkeys(MODALITIES, SIZES))
        yield module


@pytest.fixture(scope="module")
def media(streams):
    return streams.Media(DEMO)


@pytest.fixture
def picture_modalities(streams):
    module = importlib.reload(importlib.import_module("picture_modalities"))
    yield module
    for name in module.NAMES:
        REGISTRY.unregister(name)


def read(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def build(streams, media, monkeypatch, out: Path, name: str) -> Path:
    """Write a stream in a few modalities to ``out``."""
    modalities, classes = MODALITIES[name]
    monkeypatch.setattr(streams, "PHRASES", {m: streams.PHRASES[m] for m in modalities if m in streams.PHRASES})
    monkeypatch.setattr(streams, "PICTURES", modalities)
    assert streams.BUILDERS[name](media, out, 0) == len(modalities) * classes * sum(SIZES.values())
    return out


@pytest.mark.parametrize("name", MODALITIES)
def test_each_split_is_made_from_files_of_that_split_and_reproducible(
    streams, media, picture_modalities, monkeypatch, tmp_path, name
):
    out = build(streams, media, monkeypatch, tmp_path / "a", name)
    modalities, classes = MODALITIES[name]
    known = Counter((row["split"], row["label"]) for row in read(DEMO))
    frames = {row["label"] for row in read(DEMO) if row["modality"] == "video"} if name == "masked" else set()
    parts = {"masked": {4}, "shared": {1, 3}}.get(name, {2})
    for row in read(out):
        shown = [part.rsplit("/", 1) for part in row["source"].split()]
        assert len(shown) in parts and row["group"]
        assert all(int(k) < known[row["split"], label] * (4 if label in frames else 1) for label, k in shown)
    chosen = [f"stream.path={out}", f"stream.modalities={json.dumps(list(modalities))}", "stream.shuffle_classes=true"]
    chosen += ["stream.late=none", "stream.max_train_per_class={}"]
    stream = make_stream(load_config(str(DEMO / f"{name}.toml"), chosen))
    assert Counter(task.modality for task in stream.tasks) == dict.fromkeys(modalities, classes // 4)
    assert len(stream.classes) == (classes if name == "shared" else classes * len(modalities))
    for task in stream.tasks:
        # The two classes of a pair, or of a place, differ in order or in what is empty, and stay together.
        pairs = Counter(
            tuple(sorted(label.removeprefix("only_").removeprefix("not_").split("_before_"))) for label in task.classes
        )
        assert set(pairs.values()) == {2}
    build(streams, media, monkeypatch, tmp_path / "b", name)
    files = sorted(p.relative_to(out) for p in out.rglob("*") if p.is_file())
    assert all((out / p).read_bytes() == (tmp_path / "b" / p).read_bytes() for p in files)


def test_sixteen_pairs_in_which_each_label_is_as_often(streams):
    pairs = streams.sixteen_pairs("abcdefgh")
    assert len({frozenset(pair) for pair in pairs}) == 16 and all(a != b for a, b in pairs)
    assert set(Counter(label for pair in pairs for label in pair).values()) == {4}
    assert all(not set(pairs[k]) & set(pairs[k + 1]) for k in range(0, 16, 2))


def test_the_scarce_config_reads_few_samples_of_the_late_modality(streams, media, monkeypatch, tmp_path):
    monkeypatch.setitem(streams.SIZES, "scarce", {"train": 3, "val": 1, "test": 1})
    monkeypatch.setattr(streams, "PICTURES", ("image", "depth"))
    streams.build_scarce(media, tmp_path, 0)
    stream = make_stream(load_config(str(DEMO / "scarce.toml"), [f"stream.path={tmp_path}"]))
    assert [(task.modality, len(task.train)) for task in stream.tasks] == [("depth", 12)] * 2 + [("image", 8)] * 2


def test_in_scarce_both_things_of_a_video_are_seen_at_once(streams, tmp_path):
    black, white = np.zeros((20, 96, 96, 3), np.uint8), np.full((20, 96, 96, 3), 255, np.uint8)
    streams.compose_side_by_side("video", [black, white], tmp_path / "a.mp4", random.Random(0))
    video = decode(tmp_path / "a.mp4", "video", VisualSpec("video", size=96, mean=(0,) * 3, std=(1,) * 3, frames=4))
    assert video.shape == (4, 3, 96, 96) and video[..., :44].max() < 0.1 and video[..., 52:].min() > 0.9


def test_masked_pictures_have_one_histogram_and_a_veil_that_is_weaker(streams, media, picture_modalities, tmp_path):
    from pictures import DOMAINS, LARGEST_VEIL, Pictures, compose_veiled

    assert tuple(DOMAINS) == picture_modalities.NAMES
    pictures = Pictures(media)
    own, veil = (
        [pictures.part(modality, "test", label, 0) for label in pictures.labels(modality)[:2]]
        for modality in ("spectrogram", "depth_map")
    )
    for part in own + veil:
        assert part.shape == (224, 112)
        np.testing.assert_allclose(np.quantile(part, (0.1, 0.5, 0.9)), (0.1, 0.5, 0.9), atol=1e-3)
    compose_veiled("spectrogram", [*own, *veil], tmp_path / "a.jpg", random.Random(0))
    with (tmp_path / "a.jpg").open("rb") as file:
        read_back = picture_modalities.read_picture(file)
    weight = LARGEST_VEIL * random.Random(0).random()
    mixed = (1 - weight) * np.concatenate(own, axis=1) + weight * np.concatenate(veil, axis=1)
    assert 0 < weight < 0.5 and np.abs(read_back - mixed).mean() < 0.02
    assert np.abs(read_back - np.concatenate(own, axis=1)).mean() > 0.05
    # A clip gives several pictures, all of one group.
    label = pictures.labels("frame")[0]
    assert pictures.count("frame", "test", label) == 4 * media.count("video", "test", label)
    assert len({pictures.group("frame", "test", label, k) for k in range(4)}) == 1
    assert np.abs(pictures.part("frame", "test", label, 0) - pictures.part("frame", "test", label, 2)).max() > 0


def test_a_place_of_shared_is_empty_as_the_class_says(streams, media, monkeypatch, tmp_path):
    from stream_writer import empty_like

    classes = streams.where_classes()
    assert len({text for text, _ in classes.values()}) == len(classes) == 8
    for k, place in enumerate(("first", "second", "third", "last")):
        assert [thing is None for thing in classes[f"only_{place}"][1]] == [n == k for n in range(4)]
        assert [thing is None for thing in classes[f"not_{place}"][1]] == [n != k for n in range(4)]
    out = build(streams, media, monkeypatch, tmp_path, "shared")
    from PIL import Image

    for k, place in enumerate(("first", "second", "third", "last")):
        row, column = divmod(k, 2)
        for name, empty in ((f"only_{place}", False), (f"not_{place}", True)):
            with Image.open(out / "depth" / "train" / name / "000.png") as picture:
                depth = np.asarray(picture)
            quarter = depth[80 * row :, 80 * column :][:80, :80]
            assert quarter.any() != empty and (depth.sum() == quarter.sum()) != empty
    grey = empty_like("image", np.stack([np.zeros((4, 4)), np.full((4, 4), 9), np.full((4, 4), 30)], -1).astype("u1"))
    assert (grey == (0, 9, 30)).all() and grey.shape == (4, 4, 3)
