import builtins
import io
import json
import os
from pathlib import Path

import pytest

from mmcl_fast.errors import StreamError
from mmcl_fast.streams import Stream
from tests.streams.helpers import manifest_records, put_file, task_names, write_manifest


def test_from_folder(folder):
    stream = Stream.from_folder(folder)
    assert task_names(stream) == ["image-0", "audio-0"] and len(stream) == 2
    assert stream.modalities == ["image", "audio"] and stream.root == folder
    task = stream[0]
    assert (task.index, task.modality, task.classes) == (0, "image", tuple("abcde"))
    assert (len(task.train), len(task.val), len(task.test)) == (20, 0, 10)
    sample = task.train[0]
    assert (sample.modality, sample.label, sample.split, sample.text) == ("image", "a", "train", None)
    assert sample.key == "image/train/a/train0.png" and sample.path == folder / sample.key
    assert stream.classes[0] == ("image", "a") and stream.classes[5] == ("audio", "a")
    assert len(stream.classes) == 8
    assert stream[1].texts == ("a", "x y", "z") and stream.class_text["audio", "x_y"] == "x y"


def test_class_texts_from_a_file(folder):
    (folder / "classes.json").write_text(json.dumps({"image": {"a": "a photo of an a"}}))
    stream = Stream.from_folder(folder)
    assert stream[0].texts[:2] == ("a photo of an a", "b") and stream[1].texts[0] == "a"


def test_shared_classes(folder):
    stream = Stream.from_folder(folder, shared_classes=True)
    assert len(stream.classes) == 7
    assert stream[1].classes == ("a", "x_y", "z")
    assert stream[1].class_ids == (("image", "a"), ("audio", "x_y"), ("audio", "z"))


def test_classes_per_task(folder):
    stream = Stream.from_folder(folder, classes_per_task=2)
    assert [task.classes for task in stream.tasks] == [("a", "b"), ("c", "d"), ("e",), ("a", "x_y"), ("z",)]
    assert [task.index for task in stream.tasks] == list(range(5))
    assert {sample.label for sample in stream[1].train} == {"c", "d"}
    shuffled = [
        Stream.from_folder(folder, classes_per_task=2, shuffle_classes=True, seed=seed) for seed in (1, 1, 2, 3)
    ]
    assert shuffled[0].fingerprint == shuffled[1].fingerprint
    assert len({tuple(task.classes for task in s.tasks) for s in shuffled}) > 1
    assert sorted(c for task in shuffled[0].tasks for c in task.class_ids) == sorted(stream.classes)
    with pytest.raises(StreamError, match="classes_per_task = 0"):
        Stream.from_folder(folder, classes_per_task=0)


def test_orders(folder):
    def make(order, seed=0):
        return task_names(Stream.from_folder(folder, classes_per_task=2, order=order, seed=seed))

    blocks = ["image-0", "image-1", "image-2", "audio-0", "audio-1"]
    assert make("blocks") == blocks
    drawn = {seed: make("random", seed) for seed in range(12)}
    assert drawn[3] == make("random", 3) and len(set(map(tuple, drawn.values()))) > 3
    for order in drawn.values():
        assert sorted(order) == sorted(blocks)
        for modality in ("image", "audio"):
            own = [name for name in order if name.startswith(modality)]
            assert own == sorted(own)
    assert make(["image:1", "audio:0", "image:0"]) == ["image-1", "audio-0", "image-0"]
    assert make("audio:1, image-0") == ["audio-1", "image-0"]
    for order, reason in (
        (["image:7"], "'image:7'"),
        (["image:0", "image-0"], "twice"),
        ("blokcs", "'blokcs'"),
        ([], "empty"),
    ):
        with pytest.raises(StreamError, match=reason):
            make(order)


def test_a_share_of_the_training_files_becomes_validation(folder):
    put_file(folder, "image", "val", "b", "own")
    stream = Stream.from_folder(folder, validation=0.25, seed=3)
    assert (len(stream[0].train), len(stream[0].val)) == (20 - 4, 4 + 1)
    assert [s.key for s in stream[0].val if s.label == "b"] == ["image/val/b/own.png"]
    assert stream.fingerprint == Stream.from_folder(folder, validation=0.25, seed=3).fingerprint
    assert stream.fingerprint != Stream.from_folder(folder, validation=0.25, seed=4).fingerprint
    most = Stream.from_folder(folder, validation=0.99)
    assert {s.label for s in most[0].train} == set("abcde")
    for wrong in (1.0, "automatic"):
        with pytest.raises(StreamError, match=f"validation = {wrong!r}"):
            Stream.from_folder(folder, validation=wrong)


def test_automatic_validation_takes_a_tenth_of_the_larger_classes_alone(tmp_path):
    for label, count in (("few", 9), ("some", 10), ("many", 25)):
        for split, number in (("train", count), ("test", 1)):
            for i in range(number):
                put_file(tmp_path, "image", split, label, f"{i}")
    stream = Stream.from_folder(tmp_path, validation="auto")
    held = [sample.label for sample in stream[0].val]
    assert {label: held.count(label) for label in ("few", "some", "many")} == {"few": 0, "some": 1, "many": 2}
    assert len(stream[0].train) == 9 + 9 + 23


def test_iteration_keeps_seen(folder):
    stream = Stream.from_folder(folder, classes_per_task=3)
    assert stream.seen == []
    for count, task in enumerate(stream, 1):
        assert stream.seen == stream.tasks[:count] and stream.seen[-1] is task
    assert stream.seen == stream.tasks
    next(iter(stream))
    assert len(stream.seen) == 1


def test_the_fingerprint_changes_with_tasks_and_samples(folder):
    base = Stream.from_folder(folder).fingerprint
    assert base == Stream.from_folder(folder).fingerprint and len(base) == 64
    assert base != Stream.from_folder(folder, classes_per_task=2).fingerprint
    assert base != Stream.from_folder(folder, order=["audio:0", "image:0"]).fingerprint
    put_file(folder, "image", "train", "a", "another")
    assert base != Stream.from_folder(folder).fingerprint


def test_building_opens_no_file(folder, monkeypatch):
    path = write_manifest(folder, manifest_records(folder))
    opened = []
    real = io.open

    def spy(file, *args, **kwargs):
        opened.append(os.fspath(file))
        return real(file, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", spy)
    monkeypatch.setattr(io, "open", spy)
    Stream.from_folder(folder)
    assert opened == []
    Stream.from_manifest(path)
    assert [Path(name).name for name in opened] == ["manifest.jsonl"]


def test_from_manifest(folder):
    records = manifest_records(folder) + [
        {"text": f"{split} {label} {i}", "modality": "text", "label": label, "split": split}
        for label in ("q", "p")
        for split in ("train", "test")
        for i in range(2)
    ]
    path = write_manifest(folder, records)
    stream = Stream.from_manifest(path)
    assert stream.modalities == ["audio", "image", "text"]
    assert stream[2].classes == ("q", "p")  # in order of appearance
    sample = stream[2].train[0]
    assert sample.text == "train q 0" and sample.path is None and sample.key.startswith("text-")
    assert [s.key for s in stream[1].train] == [s.key for s in Stream.from_folder(folder)[0].train]
    assert Stream.from_manifest(folder).fingerprint == stream.fingerprint
    write_manifest(folder, ["", *records[::-1]])
    moved = Stream.from_manifest(path)
    # A text's key does not depend on its line.
    assert {s.key for s in moved[0].train} == {s.key for s in stream[2].train}


def test_a_manifest_may_name_its_tasks(folder):
    records = manifest_records(folder)
    for record in records:
        record["task"] = f"{record['modality']} {'early' if record['label'] < 'c' else 'late'}"
    stream = Stream.from_manifest(write_manifest(folder, records), order=["image early", "audio:1"])
    assert task_names(stream) == ["image early", "audio late"] and stream[0].classes == ("a", "b")
    with pytest.raises(StreamError, match="names its tasks"):
        Stream.from_manifest(folder, classes_per_task=2)
    del records[3]["task"]
    with pytest.raises(StreamError, match="line 4: 'task' must be on every line"):
        Stream.from_manifest(write_manifest(folder, records))
    records[3]["task"] = "image late"
    with pytest.raises(StreamError, match="task 'image late' mixes audio and image"):
        Stream.from_manifest(write_manifest(folder, records))


def test_demo(folder, monkeypatch, tmp_path):
    write_manifest(folder, manifest_records(folder))
    fingerprint = Stream.from_manifest(folder).fingerprint
    assert Stream.demo(folder).fingerprint == fingerprint
    monkeypatch.setenv("MMCL_FAST_DEMO", str(folder))
    assert Stream.demo(classes_per_task=2, order="random").modalities
    monkeypatch.setenv("MMCL_FAST_DEMO", str(tmp_path))
    with pytest.raises(StreamError, match="MMCL_FAST_DEMO"):
        Stream.demo()
    monkeypatch.delenv("MMCL_FAST_DEMO")
    folder.rename(tmp_path / "demo")
    monkeypatch.chdir(tmp_path)
    assert Stream.demo().fingerprint == fingerprint
    monkeypatch.chdir(tmp_path / "demo")
    monkeypatch.setattr("mmcl_fast.streams.sources.demo.__file__", str(tmp_path / "a" / "b" / "c" / "d" / "demo.py"))
    with pytest.raises(StreamError, match="run from a checkout, or set MMCL_FAST_DEMO"):
        Stream.demo()


def test_testing_on_validation_leaves_out_every_test_file(folder):
    plain = Stream.from_folder(folder, validation=0.25, seed=3)
    chosen = Stream.from_folder(folder, validation=0.25, seed=3, test_on="val")
    for task, own in zip(plain.tasks, chosen.tasks, strict=True):
        assert [s.key for s in own.test] == [s.key for s in task.val] and not own.val
        assert own.train == task.train
    assert chosen.fingerprint != plain.fingerprint
    with pytest.raises(StreamError, match="no validation sample to test on"):
        Stream.from_folder(folder, test_on="val")
    with pytest.raises(StreamError, match="test_on = 'train'"):
        Stream.from_folder(folder, test_on="train")
