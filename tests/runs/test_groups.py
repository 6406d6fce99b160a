"""Groups in runs: from the config to the split, which a resumed run keeps; and similar content by trunk features."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from mmcl_fast import runs
from mmcl_fast.config import build_config
from mmcl_fast.errors import ConfigError, RunError
from mmcl_fast.learning import learner
from mmcl_fast.runs import similar_samples
from mmcl_fast.runs.folder import GROUPS_FILE, read_groups
from mmcl_fast.runs.make_stream import make_stream
from mmcl_fast.runs.similar_samples import similar_finder, similar_pairs
from tests.runs.conftest import KeptLines
from tests.toy import ToyEncoder


@pytest.fixture
def root(tmp_path):
    """Two classes of 8 pictures, and two more takes of each: one is noisy and one brighter."""
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "data/image" / label).mkdir(parents=True)
        for i in range(8):
            colours = rng.integers(0, 220, (4, 4, 3)).repeat(8, 0).repeat(8, 1)
            noisy = np.clip(colours + rng.normal(0, 1, colours.shape), 0, 255)
            for take, pixels in enumerate((colours, noisy, colours * 1.01)):
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"data/image/{label}/rec{i}_{take}.png")
    return tmp_path / "data"


@pytest.fixture
def config(root, monkeypatch):
    for module in (learner, similar_samples):
        monkeypatch.setattr(module, "load_encoder", lambda name, **options: ToyEncoder())

    def make(**stream):
        values = {"source": "folder", "path": str(root), "validation": "auto", **stream}
        return build_config(
            {"stream": values, "method": {"name": "ridge"}, "train": {"device": "cpu", "cache": str(root.parent / "c")}}
        )

    return make


LEAST = 0.9995  # takes of one picture are more similar to the toy encoder, other pictures less


def by_split(stream, of=lambda sample: sample.group):
    return {split: {of(s) for task in stream for s in task.split(split)} for split in ("train", "val", "test")}


def recording(sample):
    return sample.label + sample.key.rpartition("/")[2][:4]


def no_overlap(found):
    return sum(map(len, found.values())) == len(set().union(*found.values()))


def test_a_run_tells_and_keeps_its_groups(root, config, tmp_path):
    display, settings = KeptLines(), config(group="regex:image/(.*)_")
    result = runs.train(settings, tmp_path / "run", progress=display)
    found = by_split(result.stream)
    assert no_overlap(found) and len(found["test"]) == 4 and "cat/rec1" in set().union(*found.values())
    line = "held out for testing: 4 of 16 groups (12 of 48 samples)"
    assert line in display.lines and f"Samples are {line}." in result.summary["notes"]
    assert read_groups(tmp_path / "run")["image/cat/rec3_1.png"] == "cat/rec3"
    again = runs.resume(tmp_path / "run")
    assert again.stream.fingerprint == result.stream.fingerprint
    with pytest.raises(RunError, match="another config: stream.group was"):
        runs.train(config(group="regex:(.*)_"), tmp_path / "run", resume=True)
    (tmp_path / "run" / GROUPS_FILE).write_bytes(b"no gzip")
    with pytest.raises(RunError, match=r"groups\.json\.gz: not readable"):
        runs.resume(tmp_path / "run")


def test_similar_content_is_one_group_and_is_looked_for_once(root, config, tmp_path, monkeypatch):
    (root / "image/cat/broken.png").write_bytes(b"no picture")
    settings = config(group="duplicates", group_similarity=LEAST, on_broken="skip")
    result = runs.train(settings, tmp_path / "run")
    assert no_overlap(by_split(result.stream, recording))
    assert [broken.key for broken in result.stream.skipped] == ["image/cat/broken.png"]

    def fail(*args, **options):
        raise AssertionError("computed again")

    monkeypatch.setattr(similar_samples, "load_encoder", fail)
    assert runs.resume(tmp_path / "run").stream.fingerprint == result.stream.fingerprint
    assert runs.evaluate(tmp_path / "run", device="cpu").tasks_total == 1


@pytest.fixture
def first(root, config, tmp_path):
    """A run over one take of each picture, in ``run``, and the other takes, which stay in ``data``."""
    for file in sorted(root.rglob("*_0.png")):
        target = tmp_path / "first" / file.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)
    settings = config(path=str(tmp_path / "first"), group="duplicates", group_similarity=LEAST)
    return runs.train(settings, tmp_path / "run")


def test_new_samples_go_to_the_side_of_old_ones_that_they_resemble(root, first, tmp_path):
    old = {split: by_split(first.stream, recording)[split] for split in ("train", "test")}
    birds = root / "image/bird"
    birds.mkdir()
    learned = sorted(old["train"])[:3]
    for number, name in enumerate(learned):  # a new class may resemble an old one
        (root / f"image/{name[:3]}/{name[3:]}_2.png").rename(birds / f"like{number}.png")
    rng = np.random.default_rng(7)
    for i in range(4):
        pixels = rng.integers(0, 220, (4, 4, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
        Image.fromarray(pixels).save(birds / f"other{i}.png")
    display = KeptLines()
    found = runs.learn(tmp_path / "run", root, progress=display)
    new = found.run.stream.tasks[len(first.stream) :]
    sides = by_split(new, recording)
    for split in ("train", "test"):
        known = {name for name in sides[split] if not name.startswith("bird")}
        assert known and not any(name in old["test" if split == "train" else "train"] for name in known)
    assert "birdlike" in sides["train"] and "birdlike" not in sides["test"] and "birdothe" in sides["test"]
    assert not any("resemble old ones" in line or "not compared" in line for line in display.lines)
    assert runs.evaluate(tmp_path / "run", device="cpu").tasks_total == 2  # the same split again


@pytest.mark.parametrize("there", ["files", "tokens", "nothing"])
def test_given_splits_stay_and_a_line_says_what_resembles_old_samples(root, config, first, tmp_path, there):
    name = sorted(by_split(first.stream, recording)["train"])[0]
    take = root / f"image/{name[:3]}/{name[3:]}_1.png"
    for split in ("train", "test"):
        place = tmp_path / "more/image" / split / "new"
        place.mkdir(parents=True)
        for i in range(2):
            pixels = np.random.default_rng(i + 10 * len(split)).integers(0, 220, (4, 4, 3)).repeat(8, 0).repeat(8, 1)
            Image.fromarray(pixels.astype(np.uint8)).save(place / f"{i}.png")
    take.rename(tmp_path / "more/image/test/new/take.png")
    if there != "files":
        shutil.rmtree(tmp_path / "first")
    if there == "nothing":
        shutil.rmtree(tmp_path / "c")
    display = KeptLines()
    runs.learn(tmp_path / "run", tmp_path / "more", progress=display)
    said = [line for line in display.lines if "1 new samples resemble old ones of another split" in line]
    unseen = [line for line in display.lines if "old image samples are not compared for similar content" in line]
    if there == "nothing":  # the run keeps the tokens of its test samples
        assert not said and unseen and unseen[0].split()[0] == str(len(first.stream.tasks[0].train))
    else:
        assert "image/test/new/take.png (test) and " in said[0] and name[3:] in said[0] and not unseen


def test_a_threshold_says_what_is_similar(root, config):
    samples = make_stream(config()).samples

    def groups(least):
        found = similar_finder(config(group_similarity=least))(samples)
        return {frozenset(recording(samples[i]) for i in pair) for pair in found}

    assert all(len(pair) == 1 for pair in groups(LEAST)) and len(groups(LEAST)) == 16
    assert any(len(pair) == 2 for pair in groups(0.5)) and len(groups(1.0)) < 16


def test_similar_pairs_are_all_pairs_over_the_threshold(monkeypatch):
    features = torch.randn(23, 5, generator=torch.Generator().manual_seed(0))
    features[7] = features[3] * 4
    features[9] = 0
    unit = torch.nn.functional.normalize(features, dim=1)
    expected = {(i, j) for i in range(23) for j in range(i + 1, 23) if unit[i] @ unit[j] >= 0.6}
    for rows in (4, 23, 100):
        monkeypatch.setattr(similar_samples, "ROWS", rows)
        assert set(similar_pairs(features, 0.6)) == expected and (3, 7) in expected
        assert set(similar_pairs(features, 1.0)) == {(3, 7)}
        assert set(similar_pairs(features, 0.6, 6)) == {pair for pair in expected if pair[0] < 6}


def test_a_run_from_before_groups_keeps_its_split(root, config, tmp_path):
    for i in range(4):
        copy = root / f"image/cat/copy{i}.png"
        copy.write_bytes((root / f"image/cat/rec{i}_0.png").read_bytes())
    settings = config(check=False)
    new, old = make_stream(config()), make_stream(settings)
    assert new.fingerprint != old.fingerprint and new.groups and not old.groups
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text("{}")
    assert make_stream(config(), tmp_path / "run").fingerprint == old.fingerprint


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ("speaker", "'speaker' is no rule"),
        ("regex:(", "is no regular expression"),
        ("regex:nothing", "matches none of 48 paths"),
        ("column:speaker", 'source = "folder" has none'),
    ],
)
def test_a_wrong_rule_ends_before_a_run_begins(config, tmp_path, group, message):
    with pytest.raises(ConfigError, match=r"^stream\.group: .*") as caught:
        runs.train(config(group=group), tmp_path / "run")
    assert message in str(caught.value) and not (tmp_path / "run").exists()
