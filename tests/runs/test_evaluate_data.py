"""The evaluation of a run, or of a saved learner, on labelled data that it did not learn."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from mmcl_fast import runs
from mmcl_fast.cli import app
from mmcl_fast.errors import StreamError
from mmcl_fast.learning.learner import Learner
from tests.toy import write_folder


@pytest.fixture
def run(tmp_path, config):
    out = tmp_path / "run"
    runs.learn_stream(config("ridge", options={}), out)
    return out


@pytest.fixture
def photos(tmp_path):
    """A folder without splits: five pictures of each of two classes."""
    write_folder(tmp_path / "made", classes=2, train=5, test=1, modalities=("image",))
    for name in ("class_0", "class_1"):
        shutil.copytree(tmp_path / "made/image/train" / name, tmp_path / "photos/image" / name)
    return tmp_path / "photos"


def test_all_samples_of_a_folder_count_and_unlike_ones_are_refused(run, photos):
    found = runs.evaluate(run, photos, device="cpu")
    assert found.result.names == ["image"] and found.result.counts == [10]  # not only the fifth that a stream holds out
    assert found.result.classes == [(("image", "class_0"), ("image", "class_1"))]
    assert set(found.result.predicted["agnostic"][0]) <= set(Learner.load(run, device="cpu").classes.keys)
    with pytest.raises(StreamError, match="no sample in its val split"):
        runs.evaluate(run, photos, split="val", device="cpu")
    with pytest.raises(StreamError, match="split = 'other'"):
        runs.evaluate(run, photos, split="other", device="cpu")
    shutil.copytree(photos / "image/class_0", photos / "image/cat")
    with pytest.raises(StreamError, match="class 'cat' of image: not learned; take it out, or learn it with"):
        runs.evaluate(run, photos, device="cpu")
    shutil.rmtree(photos / "image/cat")
    (photos / "image/class_0/0.png").write_bytes(b"")
    with pytest.raises(StreamError, match=r"0\.png: the file is empty"):
        runs.evaluate(run, photos, device="cpu")


def test_the_own_test_files_get_the_same_answers_as_in_the_run(run, root, tmp_path):
    own = runs.evaluate(run, device="cpu").result
    again = runs.evaluate(run, root, split="test", device="cpu").result
    for setting in ("agnostic", "given", "given_masked"):
        assert sum(again.correct[setting]) == sum(own.correct[setting]) and sum(again.counts) == sum(own.counts)
    Learner.load(run, device="cpu").save(tmp_path / "saved")
    saved = runs.evaluate(tmp_path / "saved", root, split="test", device="cpu").result
    assert saved.predicted == again.predicted


def test_json_lists_classes_confusions_and_samples(run, photos):
    done = CliRunner().invoke(app, ["evaluate", str(run), str(photos), "--json", "-q", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout)
    assert [row["class"] for row in values["classes"]] == [["image", "class_0"], ["image", "class_1"]]
    for row in values["classes"]:
        wrong = sum(count for _, count in row["taken_for"]["agnostic"])
        assert row["count"] == 5 and row["correct"]["agnostic"] + wrong == 5
    assert len(values["samples"]) == 10 and values["samples"][0]["path"].endswith("class_0/0.png")
    right = sum(row["predicted"]["agnostic"] == row["class"] for row in values["samples"])
    assert [right] == values["correct"]["agnostic"]
    shown = CliRunner().invoke(app, ["evaluate", str(run), str(photos), "-q", "--device", "cpu"])
    assert f"Accuracy in % on 10 samples of {photos}" in shown.stdout


def test_tables_with_and_without_a_column_of_the_split(run, tmp_path):
    plain = tmp_path / "plain.csv"
    plain.write_text("text,label\nword00 word01,class_0\nword10,class_1\n")
    assert runs.evaluate(run, plain, device="cpu").result.counts == [2]
    split = tmp_path / "split.csv"
    split.write_text("text,label,split\nword00 word01,class_0,train\nword10,class_1,test\n")
    assert runs.evaluate(run, split, device="cpu").result.counts == [2]
    assert runs.evaluate(run, split, split="test", device="cpu").result.counts == [1]
