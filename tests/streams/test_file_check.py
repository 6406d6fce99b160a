"""The check of files before anything is learned: broken files are broken, raised or left out."""

import json
from pathlib import Path

import pytest

from mmcl_fast.errors import MediaError, StreamError
from mmcl_fast.streams import Stream, check_files, require_readable_files, skip_broken_samples
from mmcl_fast.streams.broken_samples import broken_samples_to_jsonl, read_broken_samples
from tests.toy import write_folder

NOT_AN_IMAGE = b"no picture at all"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "data", classes=4, train=3, test=2, modalities=("image", "text"))


def break_files(root: Path, *names: str) -> None:
    for name in names:
        (root / name).write_bytes(NOT_AN_IMAGE)


class RecordingDisplay:
    """A progress display that keeps its lines and counts its steps."""

    def __init__(self):
        from contextlib import contextmanager

        self.lines, self.steps = [], 0
        self.phase = contextmanager(lambda name, total: (yield self))
        self.log = self.lines.append

    def advance(self, n=1):
        self.steps += n


def test_broken_samples_come_in_order_with_their_reason(root):
    break_files(root, "image/val/class_2/1.png", "image/train/class_0/2.png")
    (root / "text/test/class_1/0.txt").write_bytes(b"\xff\xff")
    stream, display = Stream.from_folder(root, classes_per_task=2), RecordingDisplay()
    broken = check_files(stream.samples, workers=3, progress=display)
    assert [(f.key, f.modality, f.split, f.label) for f in broken] == [
        ("image/train/class_0/2.png", "image", "train", "class_0"),
        ("image/val/class_2/1.png", "image", "val", "class_2"),
        ("text/test/class_1/0.txt", "text", "test", "class_1"),
    ]
    assert all(f.reason.startswith(f"{f.path}: ") and f.path == str(root / f.key) for f in broken)
    assert display.steps == 2 * 4 * (3 + 2 + 2)


def test_the_limits_of_the_config_are_used(root):
    samples = Stream.from_folder(root).samples
    broken = check_files(samples, settings={"max_pixels": 32 * 32 - 1})
    assert len(broken) == 28 and all(f.modality == "image" and "raise max_pixels" in f.reason for f in broken)


def test_the_error_names_the_first_broken_file_and_the_option_to_skip(root):
    require_readable_files(Stream.from_folder(root))
    break_files(root, "image/train/class_0/2.png", "image/val/class_2/1.png")
    with pytest.raises(MediaError, match=r'class_0/2.png: .*1 more: mmcl-fast data check.*stream.on_broken = "skip"'):
        require_readable_files(Stream.from_folder(root))


def test_skipping_leaves_out_only_broken_samples(root):
    break_files(root, "image/train/class_0/2.png", "image/test/class_3/0.png")
    stream, display = Stream.from_folder(root, classes_per_task=2), RecordingDisplay()
    before = stream.fingerprint
    remaining = skip_broken_samples(stream, progress=display)
    assert [s.key for s in remaining.skipped] == ["image/train/class_0/2.png", "image/test/class_3/0.png"]
    assert {s.key for s in stream.samples} - {s.key for s in remaining.samples} == {s.key for s in remaining.skipped}
    assert [(t.name, t.classes, t.texts) for t in remaining] == [(t.name, t.classes, t.texts) for t in stream]
    assert remaining.fingerprint != before == stream.fingerprint and stream.skipped == []
    assert len(display.lines) == 1 and display.lines[0].startswith("2 of 56 samples do not decode")
    (root / "image/test/class_1/0.png").write_bytes((root / "image/train/class_1/0.png").read_bytes())
    with pytest.raises(StreamError, match="equal content in the train split"):
        skip_broken_samples(remaining)
    break_files(root, "image/test/class_1/0.png")
    again = skip_broken_samples(remaining)
    assert [s.key for s in again.skipped[2:]] == ["image/test/class_1/0.png"]
    remaining, again = again, skip_broken_samples(again)
    assert again.fingerprint == remaining.fingerprint and again.skipped == remaining.skipped


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([f"train/class_1/{i}.png" for i in range(3)], r"'class_1' of image has no training file left.*class_1/2.png"),
        ([f"test/class_2/{i}.png" for i in range(2)], r"class 'class_2' of image has no test file left"),
        ([f"val/class_{c}/{i}.png" for c in range(4) for i in range(2)], r"task 'image-0' has no validation file left"),
    ],
)
def test_skipping_must_not_empty_a_class_or_a_split(root, names, message):
    break_files(root, *(f"image/{name}" for name in names))
    with pytest.raises(StreamError, match=message):
        skip_broken_samples(Stream.from_folder(root))


def test_broken_samples_are_written_and_read_again(root, tmp_path):
    break_files(root, "image/train/class_0/2.png")
    (root / "text/train/class_0/0.txt").rename(root / "text/train/class_0/é\n.txt")
    (root / "text/train/class_0/é\n.txt").write_bytes(b"\0\0")
    broken = check_files(Stream.from_folder(root).samples)
    file = tmp_path / "broken.jsonl"
    file.write_text(broken_samples_to_jsonl(broken))
    assert read_broken_samples(file) == broken and len(broken) == 2
    assert set(json.loads(file.read_text().splitlines()[0])) == {"key", "path", "modality", "split", "label", "reason"}
    for content in ("{", '["key"]', '{"key": "x"}'):
        file.write_text(content)
        with pytest.raises(StreamError, match="broken.jsonl: not a list of broken samples"):
            read_broken_samples(file)
