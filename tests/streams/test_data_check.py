"""The check of data as Python calls it: reading, decoding and inspecting in one report."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmcl_fast.errors import StreamError
from mmcl_fast.streams import Findings, Stream, check_data, check_files
from mmcl_fast.streams.data_check import check_stream
from tests.toy import write_folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "data", classes=2, train=3, test=2, modalities=("image", "text"))


def test_sound_data_pass(root: Path) -> None:
    report = check_data(root, settings={"isolate": False})
    assert report.passed and len(report.findings) == 0 and not report.broken
    assert report.counts() == [
        {"modality": modality, "classes": 2, "train": 6, "val": 4, "test": 4} for modality in ("image", "text")
    ]


def test_broken_and_equal_files_are_in_one_report(root: Path) -> None:
    (root / "image/train/class_0/0.png").write_bytes(b"")
    (root / "image/test/class_1/0.png").write_bytes((root / "image/train/class_1/0.png").read_bytes())
    report = check_data(root, settings={"isolate": False})
    assert [finding.kind for finding in report.findings.sorted()] == ["equal-in-splits", "empty"]
    assert [sample.key for sample in report.broken] == ["image/train/class_0/0.png"] and not report.passed
    assert report.stream is not None and len(report.stream.samples) == 28  # broken samples stay in


def test_settings_reach_the_decoders(root: Path) -> None:
    settings = {"isolate": False, "max_pixels": 1000}
    report = check_data(root, settings=settings)
    assert len(report.broken) == 14 and {sample.modality for sample in report.broken} == {"image"}
    assert report.broken == check_files(Stream.from_folder(root), settings=settings)


def test_a_stream_that_cannot_be_read_is_a_report_too(tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    report = check_data(tmp_path)
    assert report.stream is None and report.counts() == [] and not report.passed
    assert [finding.kind for finding in report.findings] == ["empty-class"]
    with pytest.raises(StreamError, match="gone: no such folder"):
        check_data(tmp_path / "gone")


def test_the_error_that_ends_reading_is_a_finding() -> None:
    def read(findings: Findings) -> Stream:
        findings.add("row", "a.csv line 2: no label")
        raise StreamError("a.csv: not UTF-8")

    report = check_stream(read)
    assert [(finding.kind, finding.reason) for finding in report.findings] == [
        ("row", "a.csv line 2: no label"),
        ("unreadable", "a.csv: not UTF-8"),
    ]


def test_notes_do_not_fail_the_check(root: Path) -> None:
    (root / "image/train/class_0/Thumbs.db").write_bytes(b"x")
    report = check_data(root, settings={"isolate": False})
    assert report.passed and [finding.kind for finding in report.findings] == ["passed-over"]
