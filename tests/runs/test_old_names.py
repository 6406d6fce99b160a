"""Runs and checkpoints whose class names were stored in a Mac's spelling, before names had one form."""

from __future__ import annotations

import hashlib
import json
import shutil
import unicodedata
from pathlib import Path

import pytest

from mmcl_fast.learning import Learner
from mmcl_fast.streams import Stream
from tests.toy import ToyEncoder, write_folder

APART, COMPOSED = (unicodedata.normalize(form, "café") for form in ("NFD", "NFC"))


def as_before(value: object) -> object:
    """A JSON value with the name in the Mac's spelling."""
    return json.loads(json.dumps(value, ensure_ascii=False).replace(COMPOSED, APART))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The class is spelt apart in all splits."""
    root = write_folder(tmp_path / "data", classes=2, modalities=("image",))
    for split in ("train", "val", "test"):
        (root / "image" / split / "class_1").rename(root / "image" / split / APART)
    return root


def test_a_learner_of_before_goes_on_with_the_class(root: Path, tmp_path: Path) -> None:
    stream, learner = Stream.from_folder(root), Learner(ToyEncoder(), "ridge", device="cpu")
    learner.learn(stream[0])
    before = learner.evaluate(stream.tasks).correct
    tensors, values = learner.contents()
    assert values["keys"] == [["image", COMPOSED], ["image", "class_0"]]
    old = Learner(ToyEncoder(), "ridge", device="cpu")
    old.restore(tensors, as_before(values), tmp_path)  # type: ignore[arg-type]
    assert old.classes.keys == learner.classes.keys and old.tasks == learner.tasks
    assert old.evaluate(stream.tasks).correct == before
    shutil.move(root / "image/train" / APART, root / "image/train" / COMPOSED)
    old.learn(Stream.from_folder(root)[0])
    assert len(old.classes) == 2  # no third class by another spelling


def test_the_fingerprint_of_a_stream_is_what_it_was(root: Path) -> None:
    """A run of before goes on: its config.json holds the fingerprint over names as they are spelt."""
    stream = Stream.from_folder(root)
    samples = [[s.key, s.split, s.label] for s in stream[0]._samples]
    tasks = [["image-0", "image", stream[0].class_ids, samples]]
    text = json.dumps(as_before(tasks), ensure_ascii=False)
    assert stream.fingerprint == hashlib.sha256(text.encode()).hexdigest()
    (root / "image/train" / APART).rename(root / "image/train" / COMPOSED)
    assert Stream.from_folder(root).fingerprint != stream.fingerprint
