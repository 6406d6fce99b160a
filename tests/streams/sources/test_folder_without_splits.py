"""Folders without splits, and a folder given to the command in place of a config."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmcl_fast.config import load_config
from mmcl_fast.errors import ConfigError, StreamError
from mmcl_fast.streams import Stream


def write(root: Path, counts: dict[str, int]) -> Path:
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True)
        for i in range(count):
            (root / folder / f"{i}.txt").write_text(f"{folder} number {i}")
    return root


def test_a_fifth_of_each_class_is_held_out(tmp_path: Path) -> None:
    root = write(tmp_path, {"text/cat": 10, "text/dog": 2, "text/cow/more": 4})
    task = Stream.from_folder(root, check=True)[0]
    assert task.classes == ("cat", "cow", "dog") and len(task.test) == 4 and len(task.train) == 12
    assert {s.label for s in task.test} == {s.label for s in task.train} == set(task.classes)
    held_out = {s.key for s in task.test}
    (root / "text/cat/new.txt").write_text("one that comes later")
    assert len(held_out - {s.key for s in Stream.from_folder(root)[0].test}) <= 1


def test_split_folders_stay_splits(tmp_path: Path) -> None:
    root = write(tmp_path, {"text/train/cat": 3, "text/test/cat": 2})
    assert len(Stream.from_folder(root)[0].test) == 2
    other = write(tmp_path / "other", {"text/Training/cat": 3, "text/Validation/cat": 2})
    with pytest.raises(StreamError, match="unknown split 'Training'"):
        Stream.from_folder(other)


def test_a_class_of_one_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StreamError, match=r"text/dog: 1 of the two files"):
        Stream.from_folder(write(tmp_path, {"text/cat": 3, "text/dog": 1}))


@pytest.mark.parametrize(
    ("folder", "what"),
    [
        ("cat", r"none of its folders \(cat\) is a modality: name them image, .*: .*/image/<class>/<file>"),
        ("images/cat", r"none of its folders \(images\) is a modality"),
        ("text", r"text: has no class folders: expected .*/text/<class>/<file>"),
    ],
)
def test_for_another_layout_the_message_shows_the_expected_one(tmp_path: Path, folder: str, what: str) -> None:
    with pytest.raises(StreamError, match=what):
        Stream.from_folder(write(tmp_path, {folder: 3}))


def test_a_folder_is_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"mine/text/cat": 3, "demo/text/cat": 3})
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "./mine", tmp_path / "mine"):
        found = load_config(name, ["method.name=ridge"])
        assert (found.stream.source, found.stream.path) == ("folder", str(tmp_path / "mine"))
        assert found.method.name == "ridge"
    assert load_config("mine", ["stream.path=demo"]).stream.path == str(tmp_path / "demo")
    assert load_config("demo").stream.source == "demo" and load_config("./demo").stream.source == "folder"
    with pytest.raises(ConfigError, match="a folder of your own files"):
        load_config("nine")
