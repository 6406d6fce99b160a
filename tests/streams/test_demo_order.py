"""demo/order.py: streams in which it matters where or when a thing is."""

from __future__ import annotations

import importlib
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from mmcl_fast.config import load_config
from mmcl_fast.streams import Stream

DEMO = Path(__file__).parents[2] / "demo"


@pytest.fixture(scope="module")
def order():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DEMO))
        module = importlib.import_module("order")
        patch.setattr(module, "SIZES", {"train": 2, "val": 1, "test": 1})
        yield module


@pytest.fixture(scope="module")
def media(order):
    return order.Media(DEMO)


@pytest.mark.parametrize("kind", ["order", "place"])
def test_each_split_is_made_from_files_of_that_split_and_reproducible(order, media, tmp_path, kind):
    assert order.build(kind, media, tmp_path / "a", 0) == 5 * 8 * 4
    stream = Stream.from_manifest(tmp_path / "a", classes_per_task=4, check=True)
    assert Counter(task.modality for task in stream.tasks) == dict.fromkeys(order.PHRASES, 2)
    assert len(set(stream.class_text.values())) == 40
    known = Counter((row["modality"], row["split"], row["label"]) for row in read(DEMO))
    groups = defaultdict(list)
    for row in read(DEMO):
        groups[row["modality"], row["split"], row["label"]].append(row["group"])
    for row in read(tmp_path / "a"):
        parts = [part.rsplit("/", 1) for part in row["source"].split()]
        assert len(parts) == {"order": 2, "place": 4}[kind]
        named = next((label, k) for label, k in parts if row["label"].startswith(label))
        assert row["group"] == groups[row["modality"], row["split"], named[0]][int(named[1])]
        assert all(int(k) < known[row["modality"], row["split"], label] for label, k in parts)
    order.build(kind, media, tmp_path / "b", 0)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert all((tmp_path / "a" / p).read_bytes() == (tmp_path / "b" / p).read_bytes() for p in files)


def read(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def test_the_object_is_where_the_class_says(order):
    from stream_writer import concatenate_in_time, tile

    left, right = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 9, np.uint8)
    pair = tile([left, right])
    assert pair.shape == (4, 4, 3) and not pair[:, :2].any() and (pair[:, 2:] == 9).all()
    for place, (name, (text, things)) in enumerate(
        list(order.place_classes("image", ["pear", "plum", "fig"]).items())[:4]
    ):
        assert things.index("pear") == place and things.count(None) == 3
        square = tile([right if thing else left for thing in things])
        row, column = divmod(place, 2)
        assert square.sum() == square[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].sum() > 0
        assert name == "pear_" + text.removeprefix("a photo of pear at the ").replace(" ", "_")
    first = list(order.order_classes("audio", [("a", "b"), ("c", "d")]).items())[1]
    assert first == ("b_before_a", ("the sound of b and then a", ["b", "a"]))
    beside = order.order_classes("video", [("a", "b")], side_by_side=True)
    assert [text for text, _ in beside.values()] == ["a video of a to the left of b", "a video of b to the left of a"]
    wave = concatenate_in_time([np.ones(9000, np.float32), np.zeros(9000, np.float32)], 10000, None, moving=False)
    assert wave[:4000].all() and not wave[5000:].any() and len(wave) == 10000


@pytest.mark.parametrize("kind", ["order", "place"])
def test_the_config_reads_the_stream_beside_it(kind):
    made = load_config(str(DEMO / f"{kind}.toml"))
    assert made.stream.path == str(DEMO / kind) and made.stream.source == "manifest"
