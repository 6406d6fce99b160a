"""Each fault stops with one line that names the place and says what to do."""

import errno
import json
import os
import shutil

import pytest

from mmcl_fast.streams import Stream
from tests.streams.helpers import assert_refused, manifest_records, put_file, write_manifest


@pytest.fixture
def build(folder):
    return lambda **options: Stream.from_folder(folder, **options)


def test_no_such_folder(tmp_path):
    assert_refused(lambda: Stream.from_folder(tmp_path / "gone"), "gone: not a folder", "<modality>/<split>/<class>")
    assert_refused(lambda: Stream.from_folder(tmp_path), "no samples")


@pytest.mark.parametrize("part", ["image", "image/train/"])
def test_a_folder_without_permission(folder, build, part, monkeypatch):
    scandir = os.scandir

    def closed(path):
        if str(folder / part).rstrip("/") in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    assert_refused(build, str(folder / part).rstrip("/"), "Permission denied", "make it readable or remove it")


def test_unknown_modality_folder(folder, build):
    (folder / "image").rename(folder / "images")
    assert_refused(build, "images", "did you mean 'image'?", "image, video, audio, depth, text")


def test_unknown_split_folder(folder, build):
    (folder / "image" / "test").rename(folder / "image" / "tset")
    assert_refused(build, "tset", "did you mean 'test'?")


def test_empty_folders(folder, build):
    (folder / "depth").mkdir()
    assert_refused(build, "depth: has no class folders")
    (folder / "depth" / "train").mkdir()
    assert_refused(build, "train: no class folders")
    (folder / "depth" / "train" / "chair").mkdir()
    assert_refused(build, "chair: empty class folder")


def test_a_class_with_no_training_file(folder, build):
    shutil.rmtree(folder / "image" / "train" / "c")
    assert_refused(build, "class 'c' of image has no training file")


def test_no_test_split(folder, build):
    shutil.rmtree(folder / "audio" / "test")
    assert_refused(build, "audio has no test split")


def test_a_class_without_test_files_needs_a_larger_task(folder, build):
    shutil.rmtree(folder / "image" / "test" / "c")
    assert len(build()[0].test) == 8 and len(build(classes_per_task=2)[1].test) == 2
    assert_refused(build, "task 'image-2' (class 'c')", "no test file", classes_per_task=1)
    shutil.rmtree(folder / "image" / "test" / "d")
    assert_refused(build, "task 'image-1' (classes 'c', 'd')", "no test file", classes_per_task=2)
    assert len(build(classes_per_task=2, order=["image:0", "audio:0"])) == 2  # not part of the stream


@pytest.mark.parametrize("split, word", [("train", "training"), ("test", "test")])
def test_a_named_task_with_only_one_split(folder, split, word):
    records = manifest_records(folder)
    for record in records:
        lone = (record["label"], record["split"]) == ("b", "test" if split == "train" else "train")
        record["task"] = f"{record['modality']} {'odd' if lone else 'even'}"
    assert_refused(
        lambda: Stream.from_manifest(write_manifest(folder, records)),
        "task 'image odd'",
        "class 'b'",
        f"no {word} file",
    )


def test_two_splits_sharing_a_file(folder, build):
    link = folder / "image" / "test" / "a" / "linked.png"
    link.symlink_to(folder / "image" / "train" / "a" / "train0.png")
    assert_refused(build, "one file in", "train", "linked.png", "image/train/a/train0.png")
    link.unlink()
    link.hardlink_to(folder / "image" / "train" / "a" / "train0.png")
    assert_refused(build, "one file in", "linked.png")


def test_two_splits_holding_equal_content(folder, build):
    shutil.copy(folder / "image" / "train" / "a" / "train0.png", folder / "image" / "test" / "b" / "copy.png")
    build()
    assert_refused(build, "equal content in", "copy.png", "train0.png", check=True)


def test_an_empty_file(folder, build):
    (folder / "image" / "train" / "a" / "train1.png").write_bytes(b"")
    assert_refused(build, "train1.png: the file is empty", "replace the file or remove it")


def test_a_misnamed_file(folder, build):
    (folder / "image" / "train" / "a" / "bark.WAV").write_text("x")
    assert_refused(build, "bark.WAV: a .wav file cannot be image", "move it to audio")


def test_a_dangling_link(folder, build):
    (folder / "image" / "train" / "a" / "dangling.png").symlink_to(folder / "nowhere.png")
    assert_refused(build, "dangling.png", "restore the file")


@pytest.mark.parametrize(
    "content, part",
    [
        ("{", "not JSON"),
        ("[1]", "expected {modality"),
        ('{"image": 3}', "expected {modality"),
        ("[" * 100_000, "nested too deeply"),
        ('{"image": {"a": "\\ud800"}}', "half a character"),
        ('{"imgae": {}}', "did you mean 'image'?"),
        ('{"image": {"a": 5}}', "image 'a'"),
        ('{"image": {"a": " "}}', "image 'a'"),
    ],
)
def test_class_texts(folder, build, content, part):
    (folder / "classes.json").write_text(content)
    assert_refused(build, "classes.json", part)


@pytest.mark.parametrize(
    "line, parts",
    [
        ("{'path': 1}", ["not a JSON object"]),
        ("[1, 2]", ["not an object but list"]),
        ({"path": None}, ["'path' must be a string"]),
        ({"split": ""}, ["'split' must be a string that is not empty"]),
        ({"label": 7}, ["'label' must be a string"]),
        ({"modality": "vidio"}, ["unknown modality 'vidio'", "did you mean 'video'?"]),
        ({"split": "trian"}, ["unknown split 'trian'", "did you mean 'train'?"]),
        ({"text": "both"}, ["either 'path' or 'text'"]),
        ({"path": "../secret.png"}, ["leaves the manifest's folder"]),
        ({"path": "/etc/hostname"}, ["leaves the manifest's folder"]),
        ({"path": "image/train/a/gone.png"}, ["gone.png", "No such file"]),
        ({"path": "image/train/a/bad\0name.png"}, ["'path'", "holds a zero byte"]),
        ({"path": "image/train/a/go\nne.png"}, ["'image/train/a/go\\nne.png'", "No such file"]),
        ({"path": "image/train/a/\ud800.png"}, ["'path'", "half a character"]),
        ({"label": "\udc80"}, ["'label'", "half a character"]),
        ({"task": "\ud800"}, ["'task'", "half a character"]),
        ({"label": "a\0b"}, ["'label'", "holds a zero byte"]),
        ("[" * 100_000, ["nested too deeply"]),
        ('{"path": ' + "[" * 100_000, ["nested too deeply"]),
        ({"modality": "audio"}, ["a .png file cannot be audio"]),
    ],
)
def test_manifest_lines(folder, line, parts):
    records = manifest_records(folder)
    index = next(i for i, r in enumerate(records) if r["modality"] == "image")
    records[index] = line if isinstance(line, str) else {**records[index], **line}
    assert_refused(
        lambda: Stream.from_manifest(write_manifest(folder, records)), f"manifest.jsonl line {index + 1}", *parts
    )


@pytest.mark.parametrize("text, part", [("\ud800 hi", "half a character"), ("h\0i", "holds a zero byte")])
def test_the_characters_of_inline_text_are_checked(folder, text, part):
    records = [*manifest_records(folder), {"text": text, "modality": "text", "label": "a", "split": "train"}]
    assert_refused(
        lambda: Stream.from_manifest(write_manifest(folder, records)),
        f"manifest.jsonl line {len(records)}",
        "'text'",
        part,
    )


def test_a_file_name_that_is_not_utf8(folder, build):
    (folder / "image" / "train" / "a" / "caf\udce9.png").write_text("x")  # the byte e9 on disk
    assert_refused(build, "caf\\udce9.png", "not UTF-8", "rename")


def test_a_manifest_path_with_a_zero_byte():
    assert_refused(lambda: Stream.from_manifest("a\0b"), "null ", "give a file")


def test_a_missing_field_and_its_near_miss(folder):
    records = manifest_records(folder)
    records[2]["lable"] = records[2].pop("label")
    assert_refused(
        lambda: Stream.from_manifest(write_manifest(folder, records)), "line 3: 'label' is missing", "'lable'"
    )
    records[2] = {"modality": "text", "label": "a", "split": "train"}
    assert_refused(
        lambda: Stream.from_manifest(write_manifest(folder, records)), "line 3: give either 'path' or 'text'"
    )


def test_text_belongs_to_text(folder):
    records = [*manifest_records(folder), {"text": "x", "modality": "image", "label": "a", "split": "train"}]
    assert_refused(
        lambda: Stream.from_manifest(write_manifest(folder, records)),
        f"line {len(records)}",
        "modality text, not image",
    )


def test_a_path_in_two_splits(folder):
    records = manifest_records(folder)
    records.append({**records[0], "split": "train" if records[0]["split"] == "test" else "test"})
    where = f"line {len(records)}"
    assert_refused(
        lambda: Stream.from_manifest(write_manifest(folder, records)), where, "already on line 1", records[0]["split"]
    )
    records[-1]["id"] = "another"
    assert_refused(lambda: Stream.from_manifest(write_manifest(folder, records)), "one file in")


def test_a_link_out_of_the_folder(folder, tmp_path):
    (tmp_path / "outside.png").write_text("x")
    (folder / "image" / "train" / "a" / "out.png").symlink_to(tmp_path / "outside.png")
    assert_refused(
        lambda: Stream.from_manifest(write_manifest(folder, manifest_records(folder))),
        "out.png",
        "leaves the manifest's folder",
    )


def test_equal_texts_in_two_splits(folder):
    texts = [
        {"text": "the same", "modality": "text", "label": "a", "split": split, "id": split}
        for split in ("train", "test")
    ]
    path = write_manifest(folder, [*manifest_records(folder), *texts])
    Stream.from_manifest(path)
    assert_refused(lambda: Stream.from_manifest(path, check=True), "equal content in", "train", "test")


def test_unreadable_manifests(tmp_path):
    assert_refused(lambda: Stream.from_manifest(tmp_path / "gone.jsonl"), "gone.jsonl: No such file")
    (tmp_path / "manifest.jsonl").write_bytes(b'{"label": "caf\xe9"}\n')
    assert_refused(lambda: Stream.from_manifest(tmp_path), "line 1: not UTF-8: save the file as UTF-8")
    (tmp_path / "manifest.jsonl").write_text("\n")
    assert_refused(lambda: Stream.from_manifest(tmp_path), "no samples")
    name = put_file(tmp_path, "image", "test", "a", "x").name
    (tmp_path / "manifest.jsonl").write_text(json.dumps({"path": name}))
    assert_refused(lambda: Stream.from_manifest(tmp_path), "line 1: 'modality' is missing")
