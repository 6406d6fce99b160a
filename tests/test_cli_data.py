"""`mmcl-fast data check` on every kind of source."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from tests.test_cli import call, error_of
from tests.toy import write_folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two broken pictures, one of them without a byte."""
    root = write_folder(tmp_path / "data", classes=2, train=3, test=2, modalities=("image",))
    (root / "image/train/class_1/2.png").write_bytes(b"not found")
    (root / "image/test/class_0/1.png").write_bytes(b"")
    return root


def check(source: object, code: int = 1) -> dict:
    return json.loads(call("data", "check", source, "--json", "-q", code=code).stdout)


def labels(found: dict) -> list[tuple[str, str]]:
    return [(fault["split"], fault["label"]) for fault in found["faults"]]


def pack(root: Path, file: Path) -> Path:
    """One split as a tar in the WebDataset convention."""
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
    whole = tmp_path / "whole.csv"
    whole.write_text("text,label,split\nx one,a,train\nx two,a,test\n")
    assert check(whole, 0)["modalities"][0]["train"] == 1
    (tmp_path / "mine.toml").write_text('[stream]\nsource = "table"\npath = "news"\n')
    assert check(tmp_path / "mine.toml", 0) == found


def test_what_is_no_source(tmp_path: Path) -> None:
    assert "nowhere" in error_of(call("data", "check", tmp_path / "nowhere", code=2))
    assert "nowhere.tar" in error_of(call("data", "check", tmp_path / "nowhere.tar", code=2))
    assert error_of(call("data", "check", tmp_path, code=2))
    shutil.rmtree(tmp_path)
