"""The evaluation of a run, or of a saved learner, on labelled data that it did not learn."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from mmcl_fast import runs
from mmcl_fast.cli import app
from mmcl_fast.errors import ConfigError, RunError, StreamError
from mmcl_fast.learning.learner import Learner
from mmcl_fast.learning.unknown import UnknownScores
from mmcl_fast.learning.unknown_counts import auroc
from mmcl_fast.runs.prediction_file import read_predictions
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
    with pytest.raises(StreamError, match="class 'cat' of image: not learned; take it out, .* --unknown RATE"):
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


def add_strangers(photos):
    """Add a class of one loud colour, which the run did not learn."""
    (photos / "image/cat").mkdir()
    for number in range(4):
        noise = np.random.default_rng(number).integers(0, 9, (32, 32, 3))
        picture = np.clip(np.array([255, 0, 255]) - noise, 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(photos / f"image/cat/{number}.png")


def test_flagged_samples_are_counted_and_other_classes_count_for_nothing_else(run, photos):
    plain = runs.evaluate(run, photos, device="cpu")
    add_strangers(photos)
    found = runs.evaluate(run, photos, unknown=0.2, device="cpu")
    assert plain.flagged is None and found.result == plain.result  # accuracy is as without the cats
    model = Learner.load(run, device="cpu")
    cats, others = (
        np.array([p.unknown for p in model.predict(sorted((photos / "image").glob(pattern)))])
        for pattern in ("cat/*.png", "class_*/*.png")
    )
    row = found.flagged.modalities["image"]
    assert (row.learned.samples, row.not_learned.samples) == (10, 4) and row == found.flagged.all
    assert row.learned.flagged == (others >= 0.8).sum() and row.not_learned.flagged == (cats >= 0.8).sum() == 4
    assert row.auroc == auroc(others, cats) > 0.5
    low = runs.evaluate(run, photos, unknown=0.999, device="cpu").flagged.all
    assert low.learned.flagged == (others >= 0.001).sum() > row.learned.flagged


def test_the_runs_own_samples_are_flagged_at_about_the_rate(run):
    found = runs.evaluate(run, unknown=0.05, device="cpu")
    own = read_predictions(run)
    assert set(found.flagged.modalities) == {"image", "text"}
    assert found.flagged.all.learned.samples == len(set(own.keys))
    assert found.flagged.all.learned.flagged == (own.unknown >= 0.95).sum()
    assert found.flagged.all.not_learned.samples == 0 and found.flagged.all.auroc is None
    assert "not learned" not in found.flagged.table()


def test_the_command_prints_and_lists_what_is_flagged(run, photos):
    add_strangers(photos)
    words = ["evaluate", str(run), str(photos), "-q", "--device", "cpu", "--unknown", "0.1"]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.output
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert f"Accuracy in % on 10 samples of {photos}" in shown.stdout
    at = lines.index(["Flagged", "as", "unknown", "at", "a", "rate", "of", "10", "%"])
    assert " ".join(lines[at + 1]) == "learned flagged in % not learned flagged in % AUROC"
    values = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)["unknown"]
    assert values["rate"] == 0.1 and values["modalities"] == {"image": values["all"]}
    whole = values["all"]
    strange = whole["not_learned"]
    assert whole["samples"] == 10 and strange["samples"] == 4 and whole["percent"] == 10 * whole["flagged"]
    for line, name in zip(lines[at + 2 :], ("image", "all")):
        cells = [10, whole["flagged"], f"{whole['percent']:.1f}", 4, strange["flagged"], f"{strange['percent']:.1f}"]
        assert line == [name, *map(str, cells), f"{whole['auroc']:.3f}"]


def test_samples_without_a_score_are_not_counted_as_known(run, photos, monkeypatch):
    monkeypatch.setattr(UnknownScores, "__call__", lambda self, tokens, modality: [None] * len(tokens.query))
    found = runs.evaluate(run, photos, unknown=0.1, device="cpu").flagged
    assert (found.all.learned.samples, found.all.learned.unscored, found.all.learned.percent) == (0, 10, None)
    assert "10 samples have no score" in found.table()


def test_wrong_rates_and_data_of_strangers_alone_are_refused(run, photos, monkeypatch):
    for rate in (0.0, 1.0, 5.0):
        with pytest.raises(ConfigError, match=f"--unknown {rate}: give a share between 0 and 1"):
            runs.evaluate(run, photos, unknown=rate, device="cpu")
    add_strangers(photos)
    for name in ("class_0", "class_1"):
        shutil.rmtree(photos / "image" / name)
    with pytest.raises(StreamError, match="no sample of a class that was learned; add some"):
        runs.evaluate(run, photos, unknown=0.1, device="cpu")
    monkeypatch.setattr(UnknownScores, "from_state", classmethod(lambda cls, *state: cls()))
    with pytest.raises(RunError, match="learned by an earlier version"):
        runs.evaluate(run, photos, unknown=0.1, device="cpu")


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
