"""Shares that are held out for testing and validation: no group is split, and classes keep their proportions."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from mmcl_fast.errors import StreamError
from mmcl_fast.streams import Findings, Stream
from mmcl_fast.streams.grouping import Grouping, parse_rule
from tests.streams.helpers import ENDING

TAKE = Grouping(parse_rule("regex:([a-z]+[0-9]+)_[0-9]+[.]"))


def put(root: Path, place: str, names: list[str]) -> None:
    folder = root / place
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.{ENDING[place.split('/')[0]]}").write_text(f"{place} {name}")


def takes(group: str, count: int) -> list[str]:
    return [f"{group}_{i}" for i in range(count)]


def sides(stream: Stream) -> dict[str, set[str]]:
    """Return group -> the splits that its samples are in."""
    out: dict[str, set[str]] = {}
    for sample in stream.samples:
        out.setdefault(sample.group or sample.key, set()).add(sample.split)
    return out


def splits(stream: Stream, label: str) -> Counter[str]:
    return Counter(sample.split for sample in stream.samples if sample.label == label)


@pytest.mark.parametrize("number", range(12))
def test_no_group_is_split_and_proportions_stay(tmp_path: Path, number: int) -> None:
    draw = random.Random(number)
    groups = {f"rec{i}": draw.randint(1, 4) for i in range(draw.randint(20, 60))}
    for name, size in groups.items():
        for i in range(size):  # some groups span classes
            put(tmp_path, f"text/{draw.choice('ab') if draw.random() < 0.3 else 'ab'[size % 2]}", [f"{name}_{i}"])
    for validation in (0.0, "auto", 0.25):
        stream = Stream.from_folder(tmp_path, grouping=TAKE, validation=validation, seed=number)
        assert all(len(found) == 1 for found in sides(stream).values())
        for label in "ab":
            found = splits(stream, label)
            assert abs(found["test"] - 0.2 * found.total()) <= 2.5, found
            left = found["train"] + found["val"]
            share = 0.1 if validation == "auto" else float(validation)
            assert abs(found["val"] - share * left) <= 3, found
        again = Stream.from_folder(tmp_path, grouping=TAKE, validation=validation, seed=number)
        assert again.fingerprint == stream.fingerprint
    other = Stream.from_folder(tmp_path, grouping=TAKE, validation=0.25, seed=number + 1)
    assert {s.key for t in other for s in t.test} == {s.key for t in stream for s in t.test}
    assert {s.key for t in other for s in t.val} != {s.key for t in stream for s in t.val}


def test_without_groups_the_same_files_are_held_out_as_ever(tmp_path: Path) -> None:
    put(tmp_path, "text/a", [f"f{i}" for i in range(23)])
    put(tmp_path, "text/b", [f"f{i}" for i in range(2)])
    plain = Stream.from_folder(tmp_path, validation=0.3)
    looked = Stream.from_folder(tmp_path, validation=0.3, grouping=Grouping(equal_content=True))
    assert looked.fingerprint == plain.fingerprint and looked.groups == {}
    assert splits(plain, "a") == {"test": 5, "val": 5, "train": 13} and splits(plain, "b") == {"test": 1, "train": 1}
    assert [held.line for held in plain.held_out] == [
        "held out for testing: 6 of 25 samples",
        "held out for validation: 5 of 19 samples",
    ]


def test_what_was_held_out_is_told_by_groups(tmp_path: Path) -> None:
    for i in range(10):
        put(tmp_path, "text/a", takes(f"rec{i}", 3))
    stream = Stream.from_folder(tmp_path, grouping=TAKE)
    assert [held.line for held in stream.held_out] == ["held out for testing: 2 of 10 groups (6 of 30 samples)"]


def test_a_class_of_one_group_is_learned_and_a_line_says_so(tmp_path: Path) -> None:
    put(tmp_path, "text/a", takes("rec1", 5))
    put(tmp_path, "text/b", [*takes("rec2", 3), *takes("rec3", 3)])
    stream = Stream.from_folder(tmp_path, grouping=TAKE)
    assert splits(stream, "a") == {"train": 5} and splits(stream, "b") == {"train": 3, "test": 3}
    (finding,) = stream.findings
    assert finding.kind == "one-group" and finding.level == "warning"
    assert "text/a: all 5 files are one group (rec1)" in finding.reason and "another group" in finding.reason


def test_a_giant_group_stays_in_training(tmp_path: Path) -> None:
    put(tmp_path, "text/a", [*takes("rec1", 40), "x", "y"])
    stream = Stream.from_folder(tmp_path, grouping=TAKE, validation=0.2)
    assert splits(stream, "a")["train"] == 40 and splits(stream, "a")["test"] == 2


def test_one_group_of_everything_cannot_be_tested(tmp_path: Path) -> None:
    for label in "ab":
        put(tmp_path, f"text/{label}", takes("rec1", 3))
    with pytest.raises(StreamError, match="has no test"):
        Stream.from_folder(tmp_path, grouping=TAKE)


def test_a_video_and_its_sound_stay_on_one_side(tmp_path: Path) -> None:
    for i in range(10):
        put(tmp_path, "video/a", takes(f"rec{i}", 1))
        put(tmp_path, "audio/a", takes(f"rec{i}", 2))
    stream = Stream.from_folder(tmp_path, grouping=TAKE, validation=0.2)
    found = sides(stream)
    assert len(found) == 10 and all(len(some) == 1 for some in found.values())
    assert [len(task.test) for task in stream] == [2, 4] or [len(task.test) for task in stream] == [4, 2]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_group_follows_its_samples_of_a_modality_with_splits(tmp_path: Path, split: str) -> None:
    put(tmp_path, "image/train/a", ["x"])
    put(tmp_path, "image/test/a", ["y"])
    put(tmp_path, f"image/{split}/a", takes("rec3", 1))
    for i in range(10):
        put(tmp_path, "text/a", takes(f"rec{i}", 2))
    stream = Stream.from_folder(tmp_path, grouping=TAKE, validation=0.2)
    assert sides(stream)["rec3"] == {split} and all(len(some) == 1 for some in sides(stream).values())


def test_equal_content_is_kept_together(tmp_path: Path) -> None:
    for label in "ab":
        put(tmp_path, f"text/{label}", [f"f{i}" for i in range(20)])
    for i in range(10):
        (tmp_path / f"text/a/copy{i}.txt").write_text(f"text/a f{i}")
    (tmp_path / "text/b/copy.txt").write_text("text/a f3")
    with pytest.raises(StreamError, match="equal content in"):
        Stream.from_folder(tmp_path, check=True)
    stream = Stream.from_folder(tmp_path, check=True, validation=0.2, grouping=Grouping(equal_content=True))
    assert len({"text/a/f3.txt", "text/a/copy3.txt", "text/b/copy.txt"} & stream.groups.keys()) == 3
    assert all(len(some) == 1 for some in sides(stream).values())


def test_groups_in_splits_that_the_data_give_are_named(tmp_path: Path) -> None:
    for split in ("train", "test"):
        put(tmp_path, f"text/{split}/a", takes("rec1", 2))
        put(tmp_path, f"text/{split}/b", [split])
    with pytest.raises(StreamError, match=r"group 'rec1' in the test split .* and the train split"):
        Stream.from_folder(tmp_path, grouping=TAKE)
    findings = Findings()
    similar = Grouping(find_similar=lambda samples: [(0, 1), (1, 2)])
    Stream.from_folder(tmp_path, grouping=similar, findings=findings)
    assert [(f.kind, f.level) for f in findings] == [("similar-in-splits", "warning")]


def test_equal_content_in_splits_is_no_group_of_a_rule(tmp_path: Path) -> None:
    for split in ("train", "test"):
        put(tmp_path, f"text/{split}/a", takes(f"rec{len(split)}", 2))
        (tmp_path / f"text/{split}/a/copy.txt").write_text("equal")
    findings = Findings()
    Stream.from_folder(tmp_path, grouping=Grouping(TAKE.rule, equal_content=True), findings=findings)
    assert len(findings) == 0  # check=True names it


def test_validation_keeps_the_groups_of_a_manifest_together(tmp_path: Path) -> None:
    line = '{"text": "words %d", "modality": "text", "label": "a", "split": "%s", "group": "g%d"}\n'
    rows = [(i, "train", i // 4) for i in range(40)] + [(40, "test", 99)]
    (tmp_path / "m.jsonl").write_text("".join(line % row for row in rows))
    stream = Stream.from_manifest(tmp_path / "m.jsonl", validation=0.2)
    assert all(len(some) == 1 for some in sides(stream).values()) and len(stream[0].val) == 8


def test_known_classes_need_no_tests(tmp_path: Path) -> None:
    put(tmp_path, "text/old", ["x"])
    put(tmp_path, "text/new", [f"f{i}" for i in range(5)])
    stream = Stream.from_folder(tmp_path, known=[("text", "old")])
    assert splits(stream, "old") == {"train": 1} and splits(stream, "new") == {"train": 4, "test": 1}
    alone = tmp_path / "alone"
    put(alone, "text/train/old", ["x"])
    assert splits(Stream.from_folder(alone, known=[("text", "old")]), "old") == {"train": 1}
    with pytest.raises(StreamError, match="no test split"):
        Stream.from_folder(alone, known=[("image", "old")])


def test_groups_of_a_run_stay_on_their_side(tmp_path: Path) -> None:
    for i in range(10):
        put(tmp_path, "text/a", takes(f"rec{i}", 2))
    fixed = {f"rec{i}": "train" for i in range(9)}
    stream = Stream.from_folder(tmp_path, grouping=Grouping(TAKE.rule, sides={**fixed, "rec4": "test"}), validation=0.2)
    assert sides(stream)["rec4"] == {"test"} and all(sides(stream)[f"rec{i}"] == {"train"} for i in range(9) if i != 4)


def test_automatic_validation_takes_small_groups_too(tmp_path: Path) -> None:
    for i in range(10):
        put(tmp_path, "text/a", takes(f"rec{i}", 2))  # a tenth of the 16 training samples is less than a group
    assert splits(Stream.from_folder(tmp_path, grouping=TAKE, validation="auto"), "a") == {
        **{"test": 4, "val": 2, "train": 14}
    }
    for i in range(10):
        put(tmp_path, "text/b", takes(f"long{i}", 5)[: 5 if i < 4 else 0])
    assert splits(Stream.from_folder(tmp_path, grouping=TAKE, validation="auto"), "b")["val"] == 0
