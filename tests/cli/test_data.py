"""`mmcl-fast data check` on every kind of source."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmcl_fast import cli
from mmcl_fast.streams.findings import KINDS
from tests.cli.test_cli import call, error_of
from tests.toy import write_folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of images, two of them broken: one is text, one is empty."""
    root = write_folder(tmp_path / "data", classes=2, train=3, test=2, modalities=("image",))
    (root / "image/train/class_1/2.png").write_bytes(b"not found")
    (root / "image/test/class_0/1.png").write_bytes(b"")
    return root


def check(source: object, code: int = 1) -> dict:
    return json.loads(call("data", "check", source, "--json", "-q", code=code).stdout)


def labels(found: dict) -> list[tuple[str, str]]:
    return [(fault["split"], fault["label"]) for fault in found["faults"]]


def pack(root: Path, file: Path) -> Path:
    """Write one split as a tar in the WebDataset convention."""
    with tarfile.open(file, "w") as tar:
        for number, picture in enumerate(sorted((root / "image" / file.stem).rglob("*.png"))):
            (root / "label").write_text(picture.parent.name)
            tar.add(root / "label", f"{number:03}.cls")
            tar.add(picture, f"{number:03}.png")
    return file


BROKEN = [("train", "class_1"), ("test", "class_0")]


def test_a_folder_and_a_manifest(root: Path, tmp_path: Path) -> None:
    found = check(root)
    assert sorted(labels(found)) == sorted(BROKEN) and found["modalities"][0]["train"] == 6
    rows = [
        {"path": str(f.relative_to(root)), "modality": "image", "split": f.parts[-3], "label": f.parts[-2]}
        for f in sorted(root.rglob("*.png"))
    ]
    (root / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert check(root / "mine.jsonl") == found
    (root / "mine.toml").write_text('[stream]\nsource = "manifest"\npath = "mine.jsonl"\n[media]\nmax_pixels = 1023\n')
    assert len(check(root / "mine.toml")["faults"]) == 14


def test_tars(root: Path, tmp_path: Path) -> None:
    (tmp_path / "tars").mkdir()
    for split in ("train", "test"):
        pack(root, tmp_path / "tars" / f"{split}.tar")
    for source in (tmp_path / "tars", tmp_path / "tars/{train,test}.tar", tmp_path / "tars/*.tar"):
        found = check(source)
        assert sorted(labels(found)) == sorted(BROKEN)
        assert all(fault["reason"].startswith(fault["path"]) for fault in found["faults"])
        assert any("train.tar/" in fault["path"] for fault in found["faults"])


def test_tables(tmp_path: Path) -> None:
    (tmp_path / "news").mkdir()
    for split in ("train", "test"):
        (tmp_path / "news" / f"{split}.csv").write_text(f"text,label\nwords {split} one,a\nwords {split} two,b\n")
    found = check(tmp_path / "news", 0)
    assert found["faults"] == [] and found["modalities"][0] | {"val": 0} == {
        "modality": "text",
        "classes": 2,
        "train": 2,
        "val": 0,
        "test": 2,
    }
    one_file = tmp_path / "one_file.csv"
    one_file.write_text("text,label,split\nx one,a,train\nx two,a,test\n")
    assert check(one_file, 0)["modalities"][0]["train"] == 1
    (tmp_path / "mine.toml").write_text('[stream]\nsource = "table"\npath = "news"\n')
    assert check(tmp_path / "mine.toml", 0) == found


def test_one_check_finds_everything_that_is_wrong(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data", classes=3, train=3, test=2, modalities=("image", "text"))
    image = root / "image"
    damage = {
        "equal-in-splits": lambda: shutil.copy(image / "train/class_0/0.png", image / "test/class_0/9.png"),
        "two-labels": lambda: shutil.copy(image / "train/class_1/0.png", image / "train/class_2/9.png"),
        "equal-in-class": lambda: shutil.copy(image / "train/class_1/1.png", image / "train/class_1/9.png"),
        "empty": lambda: (image / "train/class_0/7.png").write_bytes(b""),
        "undecodable": lambda: (image / "train/class_0/8.png").write_bytes(b"\x89PNG\r\n\x1a\nno more"),
        "wrong-modality": lambda: (image / "val/class_0/8.png").write_bytes(b"a text in a folder of pictures"),
        "missing": lambda: (image / "val/class_0/7.png").symlink_to(tmp_path / "nowhere.png"),
        "loop": lambda: (image / "val/class_0/up").symlink_to(image),
        "unknown-split": lambda: (image / "valid/class_0").mkdir(parents=True),
        "unknown-modality": lambda: (root / "imgae").mkdir(),
        "no-test-file": lambda: shutil.rmtree(image / "test/class_2"),
        "no-training-file": lambda: shutil.rmtree(root / "text/train/class_2"),
        "empty-class": lambda: (root / "text/train/class_3").mkdir(),
        "alike-names": lambda: (root / "text/train/class_1").rename(root / "text/train/Class_1"),
        "left-out": lambda: shutil.copy(image / "train/class_0/0.png", image / "train/beside.png"),
        "passed-over": lambda: (image / "train/class_0/Thumbs.db").write_bytes(b"x"),
    }
    for apply in damage.values():
        apply()
    out = tmp_path / "findings.jsonl"
    result = call("data", "check", root, "--json", "-q", "--out", out, code=1)
    found = json.loads(result.stdout)["findings"]
    assert [json.loads(line) for line in out.read_text(encoding="ascii").splitlines()] == found
    kinds = {finding["kind"] for finding in found}
    assert kinds == {*damage, "no-validation-file"}  # Class_1 lacks the validation files of class_1
    ranks = [finding["rank"] for finding in found]
    assert ranks == sorted(ranks) and found[0]["kind"] == "unknown-modality"
    by_kind = {finding["kind"]: finding for finding in found}
    assert by_kind["equal-in-splits"]["key"] == "image/train/class_0/0.png"
    assert by_kind["equal-in-splits"]["others"] == ["image/test/class_0/9.png"]
    assert (
        by_kind["two-labels"]["others"] == ["image/train/class_2/9.png"]
        and "'class_2'" in by_kind["two-labels"]["reason"]
    )
    assert by_kind["empty"]["path"] == str(image / "train/class_0/7.png")
    assert "take it out of the class" in by_kind["wrong-modality"]["reason"]
    assert (
        by_kind["unknown-split"]["reason"].endswith("use train, val, test")
        and "'val'" in by_kind["unknown-split"]["reason"]
    )
    text = call("data", "check", root, "-q", code=1)
    assert [line.partition(": ")[2] for line in text.stderr.splitlines()] == [finding["reason"] for finding in found]


def test_many_findings_of_a_kind_are_cut_short_only_in_print(root: Path, tmp_path: Path) -> None:
    for number in range(9):
        (root / f"image/train/class_1/new{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    result = call("data", "check", root, "-q", "--out", tmp_path / "all.jsonl", code=1)
    lines = result.stderr.splitlines()
    assert len([line for line in lines if "new" in line]) == 5
    assert f"and 4 more of this kind (undecodable): {tmp_path / 'all.jsonl'} lists them" in result.stderr
    assert len((tmp_path / "all.jsonl").read_text().splitlines()) == 11


def test_findings_are_listed_when_no_sample_remains(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", classes=2, modalities=("image",))
    (tmp_path / "data/image").rename(tmp_path / "data/images")
    (tmp_path / "data/image").mkdir()
    out = tmp_path / "all.jsonl"
    result = call("data", "check", tmp_path / "data", "-q", "--out", out, code=2)
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [finding["kind"] for finding in found] == ["unknown-modality", "empty-class"]
    assert result.stderr.splitlines() == [f"error: {finding['reason']}" for finding in found]
    assert check(tmp_path / "data", 2) == {
        **{"modalities": [], "faults": [], "findings": found},
        **{"held_out": [], "leaks": []},
    }


def test_row_errors_are_reported_with_the_error_that_ends_reading(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    rows = [
        "text,label,split",
        "a cat,cat,train",
        ",cat,train",
        "a pet,cat,tset",
        "it purrs,cat,test",
        "it barks,,train",
    ]
    table.write_text("\n".join(rows))
    found = check(table)
    assert [finding["kind"] for finding in found["findings"] if finding["level"] == "error"] == ["row"] * 3
    assert [re.findall(r"line (\d)", f["reason"]) for f in found["findings"][:3]] == [["3"], ["4"], ["6"]]
    assert found["modalities"][0]["train"] == found["modalities"][0]["test"] == 1
    table.write_text("\n".join([*rows, "it barks,dog,train,and more"]))
    result = CliRunner().invoke(cli.app, ["data", "check", str(table), "-q"])
    assert result.exit_code in (1, 2) and all(f"line {number}: " in result.stderr for number in (3, 4, 6, 7))


def test_the_page_lists_every_kind_in_the_order_of_harm() -> None:
    page = Path(__file__).parents[2] / "docs/howto/check-data.md"
    assert re.findall(r"^\| `([\w-]+)` \| (\w+) \|", page.read_text(), re.M) == list(KINDS.items())


def test_paths_that_are_no_source(tmp_path: Path) -> None:
    assert "nowhere" in error_of(call("data", "check", tmp_path / "nowhere", code=2))
    assert "nowhere.tar" in error_of(call("data", "check", tmp_path / "nowhere.tar", code=2))
    assert error_of(call("data", "check", tmp_path, code=2))
    shutil.rmtree(tmp_path)
