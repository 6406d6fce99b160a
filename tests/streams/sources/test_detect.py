"""The kind of data that a path is read as."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmcl_fast.errors import StreamError
from mmcl_fast.streams import Stream, detect_source
from tests.streams.helpers import manifest_records, task_names, write_manifest
from tests.streams.sources.table_files import ROWS, save_table


@pytest.mark.parametrize(
    "names, kind",
    [
        (["image/", "train.csv", "a.tar"], "folder"),  # a modality's folder goes first
        (["Image/"], "folder"),
        (["manifest.csv", "train.csv", "a.tar"], "manifest"),
        (["a.tar", "train.csv"], "tar"),
        (["a.tar.gz"], "tar"),
        (["train.csv", "notes.txt"], "table"),
        (["notes.txt"], "folder"),
        ([], "folder"),
    ],
)
def test_folders(tmp_path: Path, names: list[str], kind: str) -> None:
    for name in names:
        if name.endswith("/"):
            (tmp_path / name).mkdir()
        else:
            (tmp_path / name).write_text("x")
    assert detect_source(tmp_path) == detect_source(str(tmp_path)) == kind


@pytest.mark.parametrize("name", ["a.tar", "A.TAR", "a.tgz", "train-{000..012}.tar", "train-*.tar", "t?.tar"])
def test_names_of_tars_need_no_file(tmp_path: Path, name: str) -> None:
    assert detect_source(tmp_path / name) == "tar"


def test_files_by_their_columns(tmp_path: Path) -> None:
    assert detect_source(save_table(tmp_path / "a.csv", [("x", "y", "train")], ("text", "label", "split"))) == "table"
    assert (
        detect_source(save_table(tmp_path / "b.csv", [("x", "y", "train")], ("path", "label", "split"))) == "manifest"
    )


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(StreamError, match="gone: no such folder, manifest, table, tar or config"):
        detect_source(tmp_path / "gone")


def test_a_stream_from_any_path(folder: Path, tmp_path: Path) -> None:
    by_path, by_folder = Stream.from_path(folder, classes_per_task=2), Stream.from_folder(folder, classes_per_task=2)
    assert by_path.fingerprint == by_folder.fingerprint
    path = write_manifest(folder, manifest_records(folder))
    assert task_names(Stream.from_path(path)) == task_names(Stream.from_manifest(path)) == ["audio-0", "image-0"]
    table = save_table(tmp_path / "news.csv", ROWS, ("title", "text", "label", "split"))
    assert Stream.from_path(table).fingerprint == Stream.from_table(table).fingerprint
