"""Broken files: found before anything is learned, raised or left out."""

import json
from pathlib import Path

import pytest

from mmcl_fast.errors import MediaError, StreamError
from mmcl_fast.streams import Stream, file_check
from mmcl_fast.streams.broken_samples import broken_samples_to_jsonl, read_broken_samples
from tests.toy import write_folder

WRONG = b"no picture at all"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "data", classes=4, train=3, test=2, modalities=("image", "text"))


def spoil(root: Path, *names: str) -> None:
    for name in names:
        (root / name).write_bytes(WRONG)


class Said:
    """A display that remembers."""

    def __init__(self):
        from contextlib import contextmanager

        self.lines, self.steps = [], 0
        self.phase = contextmanager(lambda name, total: (yield self))
        self.log = self.lines.append

    def advance(self, n=1):
        self.steps += n


def test_faults_are_in_the_order_of_the_samples_and_say_why(root):
    spoil(root, "image/val/class_2/1.png", "image/train/class_0/2.png")
    (root / "text/test/class_1/0.txt").write_bytes(b"\xff\xff")
    stream, said = Stream.from_folder(root, classes_per_task=2), Said()
    found = file_check.check_files(stream.samples, workers=3, progress=said)
    assert [(f.key, f.modality, f.split, f.label) for f in found] == [
        ("image/train/class_0/2.png", "image", "train", "class_0"),
        ("image/val/class_2/1.png", "image", "val", "class_2"),
        ("text/test/class_1/0.txt", "text", "test", "class_1"),
    ]
    assert all(f.reason.startswith(f"{f.path}: ") and f.path == str(root / f.key) for f in found)
    assert said.steps == 2 * 4 * (3 + 2 + 2)


def test_a_user_s_limits_hold(root):
    samples = Stream.from_folder(root).samples
    found = file_check.check_files(samples, settings={"max_pixels": 32 * 32 - 1})
    assert len(found) == 28 and all(f.modality == "image" and "raise max_pixels" in f.reason for f in found)


def test_require_names_the_first_and_the_way_out(root):
    file_check.require_readable_files(Stream.from_folder(root))
    spoil(root, "image/train/class_0/2.png", "image/val/class_2/1.png")
    with pytest.raises(MediaError, match=r'class_0/2.png: .*1 more: mmcl-fast data check.*stream.on_broken = "skip"'):
        file_check.require_readable_files(Stream.from_folder(root))


def test_skip_leaves_out_what_is_broken_and_nothing_else(root):
    spoil(root, "image/train/class_0/2.png", "image/test/class_3/0.png")
    stream, said = Stream.from_folder(root, classes_per_task=2), Said()
    whole = stream.fingerprint
    kept = file_check.skip_broken_samples(stream, progress=said)
    assert [s.key for s in kept.skipped] == ["image/train/class_0/2.png", "image/test/class_3/0.png"]
    assert {s.key for s in stream.samples} - {s.key for s in kept.samples} == {s.key for s in kept.skipped}
    assert [(t.name, t.classes, t.texts) for t in kept] == [(t.name, t.classes, t.texts) for t in stream]
    assert kept.fingerprint != whole == stream.fingerprint and stream.skipped == []
    assert len(said.lines) == 1 and said.lines[0].startswith("2 of 56 samples do not decode")
    (root / "image/test/class_1/0.png").write_bytes((root / "image/train/class_1/0.png").read_bytes())
    with pytest.raises(StreamError, match="equal content in the train split"):
        file_check.skip_broken_samples(kept)
    spoil(root, "image/test/class_1/0.png")
    again = file_check.skip_broken_samples(kept)
    assert [s.key for s in again.skipped[2:]] == ["image/test/class_1/0.png"]
    kept, again = again, file_check.skip_broken_samples(again)
    assert again.fingerprint == kept.fingerprint and again.skipped == kept.skipped


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([f"train/class_1/{i}.png" for i in range(3)], r"'class_1' of image has no training file left.*class_1/2.png"),
        ([f"test/class_2/{i}.png" for i in range(2)], r"class 'class_2' of image has no test file left"),
        ([f"val/class_{c}/{i}.png" for c in range(4) for i in range(2)], r"task 'image-0' has no validation file left"),
    ],
)
def test_skip_empties_no_class_and_no_split(root, names, message):
    spoil(root, *(f"image/{name}" for name in names))
    with pytest.raises(StreamError, match=message):
        file_check.skip_broken_samples(Stream.from_folder(root))


def test_the_list_survives_its_file(root, tmp_path):
    spoil(root, "image/train/class_0/2.png")
    (root / "text/train/class_0/0.txt").rename(root / "text/train/class_0/é\n.txt")
    (root / "text/train/class_0/é\n.txt").write_bytes(b"\0\0")
    found = file_check.check_files(Stream.from_folder(root).samples)
    file = tmp_path / "broken.jsonl"
    file.write_text(broken_samples_to_jsonl(found))
    assert read_broken_samples(file) == found and len(found) == 2
    assert set(json.loads(file.read_text().splitlines()[0])) == {"key", "path", "modality", "split", "label", "reason"}
    for content in ("{", '["key"]', '{"key": "x"}'):
        file.write_text(content)
        with pytest.raises(StreamError, match="broken.jsonl: not a list of broken samples"):
            read_broken_samples(file)
