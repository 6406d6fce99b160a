"""The stream of a config: its files are checked, broken samples are skipped, and all that is wrong is reported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mmcl_fast.config import Config, build_config
from mmcl_fast.errors import MediaError, RunError, StreamError, UserError
from mmcl_fast.runs.make_stream import check_source, check_stream_files, make_stream, prepare_stream
from tests.toy import write_folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with one broken training image."""
    root = write_folder(tmp_path / "data", classes=2, train=3, test=2, modalities=("image", "text"))
    (root / "image/train/class_1/2.png").write_bytes(b"no image")
    return root


def config(root: Path, **stream: object) -> Config:
    return build_config({"stream": {"source": "folder", "path": str(root), **stream}, "media": {"isolate": False}})


class RecordingDisplay:
    """A progress display that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.log = self.lines.append

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[RecordingDisplay]:
        yield self

    def advance(self, n: int = 1) -> None:
        pass


def test_the_config_says_whether_files_are_checked_and_what_happens_to_broken_ones(root: Path) -> None:
    unchecked = config(root, check=False)
    stream = make_stream(unchecked)
    assert check_stream_files(unchecked, stream) is stream
    checked = config(root, check=True)
    with pytest.raises(MediaError, match=r"class_1/2\.png"):
        check_stream_files(checked, make_stream(checked))
    skipping = config(root, check=True, on_broken="skip")
    remaining = check_stream_files(skipping, make_stream(skipping))
    assert [sample.key for sample in remaining.skipped] == ["image/train/class_1/2.png"]


def test_a_new_run_warns_about_its_data_and_checks_its_files(root: Path, tmp_path: Path) -> None:
    for i in range(7):
        (root / f"image/train/stray{i}.png").write_bytes(b"beside the classes")
    display = RecordingDisplay()
    stream = prepare_stream(config(root, check=True, on_broken="skip"), tmp_path / "run", progress=display)
    assert [sample.key for sample in stream.skipped] == ["image/train/class_1/2.png"]
    assert len([line for line in display.lines if line.startswith("warning: ") and "stray" in line]) == 5
    assert "warning: and 2 more of this kind (left-out): mmcl-fast data check lists them" in display.lines
    with pytest.raises(MediaError, match=r"class_1/2\.png"):
        prepare_stream(config(root, check=True), tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("x")
    with pytest.raises(RunError, match="is not empty"):
        prepare_stream(config(root, check=True), tmp_path / "other")


def test_a_config_is_checked_as_a_source(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('[stream]\nsource = "folder"\npath = "data"\ncheck = false\n[media]\nisolate = false\n')
    report = check_source(str(file))
    assert [sample.key for sample in report.broken] == ["image/train/class_1/2.png"]
    assert [finding.kind for finding in report.findings] == ["wrong-modality"]
    only_text = check_source(str(file), ['stream.modalities=["text"]'])
    assert only_text.passed and [row["modality"] for row in only_text.counts()] == ["text"]
    with pytest.raises(UserError, match=r"--set stream.order=random: .*data is no config"):
        check_source(str(root), ["stream.order=random"])
    with pytest.raises(StreamError, match="gone: no such folder"):
        check_source(str(tmp_path / "gone"))
