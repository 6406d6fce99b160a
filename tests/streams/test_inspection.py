"""Findings about a stream that was built: contents, names, texts, classes with few files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmcl_fast.streams import Stream
from mmcl_fast.streams.broken_samples import BrokenSample
from mmcl_fast.streams.findings import KINDS, Finding, Findings, findings_to_jsonl
from mmcl_fast.streams.inspection import inspect_stream


def write(root: Path, texts: dict[str, str]) -> Path:
    for name, text in texts.items():
        (root / "text" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "text" / f"{name}.txt").write_text(text)
    return root


def split(label: str, train: int = 3, test: int = 1, val: int = 0) -> dict[str, str]:
    counts = {"train": train, "val": val, "test": test}
    return {f"{part}/{label}/{i}": f"{label} {part} {i}" for part, n in counts.items() for i in range(n)}


def inspect(root: Path, broken: tuple[str, ...] = (), **options: Any) -> list[Finding]:
    found = Findings(collect=True)
    stream = Stream.from_folder(root, findings=found, **options)
    records = [BrokenSample.from_error(s, f"{s.path}: broken") for s in stream.samples if s.key in broken]
    inspect_stream(stream, records, found)
    return found.sorted()


def kinds(found: list[Finding]) -> list[str]:
    return [finding.kind for finding in found]


def test_sound_data_have_no_finding(tmp_path: Path) -> None:
    assert inspect(write(tmp_path, {**split("cat"), **split("dog")})) == []


def test_equal_content_in_splits_labels_and_a_class(tmp_path: Path) -> None:
    root = write(tmp_path, {**split("cat"), **split("dog")})
    same = {
        "a": ("train/cat/8", "test/dog/8"),  # in two splits, and under two labels
        "b": ("train/cat/9", "train/dog/9"),  # under two labels
        "c": ("train/cat/6", "train/cat/7", "train/cat/x/7"),  # three times in a class
        "d": ("test/cat/5", "train/cat/5"),  # in two splits
    }
    write(root, {name: text for text, names in same.items() for name in names})
    found = inspect(root)
    assert [(f.kind, f.key, f.others) for f in found] == [
        ("equal-in-splits", "text/train/cat/5.txt", ("text/test/cat/5.txt",)),
        ("equal-in-splits", "text/train/cat/8.txt", ("text/test/dog/8.txt",)),
        ("two-labels", "text/train/cat/8.txt", ("text/test/dog/8.txt",)),
        ("two-labels", "text/train/cat/9.txt", ("text/train/dog/9.txt",)),
        ("equal-in-class", "text/train/cat/6.txt", ("text/train/cat/7.txt", "text/train/cat/x/7.txt")),
    ]
    assert [f.label for f in found] == ["cat", "", "", "", "cat"] and [f.split for f in found][3:] == ["train"] * 2


def test_files_of_one_size_that_begin_alike_are_compared_to_their_end(tmp_path: Path) -> None:
    root = write(tmp_path, {**split("cat"), "train/cat/8": "x" * 9000 + "a", "test/cat/8": "x" * 9000 + "b"})
    assert inspect(root) == []
    write(root, {"test/cat/8": "x" * 9000 + "a"})
    assert kinds(inspect(root)) == ["equal-in-splits"]


def test_rows_of_a_table_with_equal_texts(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text(
        "text,label,split\nso it is,a,train\nso it is,a,test\nnot so,a,train\nnot so,b,train\nend,b,test\n"
    )
    found = Findings(collect=True)
    stream = Stream.from_table(table, findings=found)
    inspect_stream(stream, [], found)
    errors = [f for f in found.sorted() if f.level != "note"]
    assert [(f.kind, f.key, f.others) for f in errors] == [
        ("equal-in-splits", "t.csv:2", ("t.csv:3",)),
        ("two-labels", "t.csv:4", ("t.csv:5",)),
    ]


@pytest.mark.parametrize("other", ["Cat", "cat ", "ｃａｔ", "cat\u200b", "CAT"])
def test_names_that_look_alike(tmp_path: Path, other: str) -> None:
    found = inspect(write(tmp_path, {**split("cat"), **split(other), **split("dog")}))
    assert kinds(found) == ["alike-names"]
    assert sorted([found[0].label, *found[0].others]) == sorted(["cat", other]) and repr(other) in found[0].reason


def test_a_class_that_each_split_spells_differently(tmp_path: Path) -> None:
    found = inspect(write(tmp_path, {**split("Cat", test=0), **split("cat", train=0), **split("dog")}))
    assert kinds(found) == ["no-training-file", "alike-names", "no-test-file"]
    assert "class 'cat' of text has no training file: give it and 'Cat' one name" in found[0].reason


def test_file_names_that_other_systems_treat_as_one(tmp_path: Path) -> None:
    texts = {"train/cat/Photo": "one", "train/cat/photo": "two", "train/cat/é": "three", "train/cat/e\u0301": "four"}
    root = write(tmp_path, {**split("cat"), **split("dog"), **texts, "train/dog/photo": "elsewhere"})
    if len(list((root / "text/train/cat").iterdir())) < 7:
        pytest.skip("this file system keeps one of them")
    found = inspect(root)
    assert kinds(found) == ["alike-files"] * 2
    assert {f.key: f.others for f in found} == {
        "text/train/cat/Photo.txt": ("text/train/cat/photo.txt",),
        "text/train/cat/e\u0301.txt": ("text/train/cat/é.txt",),
    }


def test_one_text_for_two_classes(tmp_path: Path) -> None:
    root = write(tmp_path, {**split("cat"), **split("dog"), **split("oat_milk")})
    (tmp_path / "classes.json").write_text(json.dumps({"text": {"cat": "a pet", "dog": "a pet"}}))
    found = inspect(root)
    assert kinds(found) == ["equal-texts"] and "'a pet'" in found[0].reason
    assert (found[0].label, found[0].others) == ("cat", ("dog",))


def test_texts_for_unknown_classes(tmp_path: Path) -> None:
    root = write(tmp_path, {**split("oat_milk"), **split("dog")})
    (root / "classes.json").write_text(json.dumps({"text": {"oatmilk": "a drink", "zebra": "an animal"}}))
    found = inspect(root)
    assert kinds(found) == ["misspelt-text", "unused-text"] and "did you mean 'oat_milk'?" in found[0].reason
    assert found[1].others == ("zebra",) and (found[0].level, found[1].level) == ("warning", "note")


def test_classes_with_few_files(tmp_path: Path) -> None:
    texts = {**split("cat", val=1), **split("dog", train=1), **split("cow", test=0)}
    found = inspect(write(tmp_path, texts))
    assert [(f.kind, f.label) for f in found] == [
        ("no-test-file", "cow"),
        ("one-training-file", "dog"),
        ("no-validation-file", "cow"),
        ("no-validation-file", "dog"),
    ]


def test_a_class_whose_files_are_all_broken(tmp_path: Path) -> None:
    root = write(tmp_path, {**split("cat", train=2, test=1), **split("dog")})
    broken = ("text/train/cat/0.txt", "text/train/cat/1.txt", "text/test/cat/0.txt")
    found = inspect(root, broken)
    assert kinds(found) == ["no-training-file", "undecodable", "undecodable", "undecodable", "no-test-file"]
    assert "has no training file left, because none decodes" in found[0].reason and found[0].label == "cat"


def test_kinds_are_in_the_order_of_harm_and_records_hold_all(tmp_path: Path) -> None:
    found = Findings(collect=True)
    for kind in reversed(KINDS):
        found.add(kind, f"{kind}:\n of \ud800 é", others=("a", "b"))
    records = [json.loads(line) for line in findings_to_jsonl(found.sorted()).encode("ascii").splitlines()]
    assert [record["kind"] for record in records] == list(KINDS)
    assert [record["rank"] for record in records] == list(range(len(KINDS)))
    assert records[0]["reason"] == f"{next(iter(KINDS))}: of \ud800 é" and records[0]["others"] == ["a", "b"]
    assert {record["level"] for record in records} == {"error", "warning", "note"}
