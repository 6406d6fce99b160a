"""Classes of a run that are taken out or renamed: a new version holds nothing of them, and old data still count."""

from __future__ import annotations

import gzip
import json
import shutil

import pytest

from mmcl_fast import report, runs
from mmcl_fast.config import load_config
from mmcl_fast.errors import RunError, StreamError
from mmcl_fast.feature_cache.kept_tokens import has_tokens
from mmcl_fast.feature_cache.shard import read_keys
from mmcl_fast.learning import checkpoint
from mmcl_fast.learning.current_version import current_version
from mmcl_fast.learning.learner import Learner
from mmcl_fast.learning.versions import read_record
from mmcl_fast.runs import class_edits
from mmcl_fast.runs.make_stream import make_stream
from mmcl_fast.runs.prediction_file import PREDICTIONS_FILE, read_predictions, write_predictions
from mmcl_fast.runs.task_file import read_tasks
from mmcl_fast.streams.class_edits import without_class
from tests.runs.conftest import CONFIG, OPTIONS, KeptLines, bits, learn


@pytest.fixture
def whole(data):
    """Return a function that trains a method on ``all``: two tasks of image and two of text."""

    def train(method="ridge", **options):
        (data / "mine.toml").write_text(CONFIG.replace("METHOD", method).replace("first", "all"))
        given = {**(OPTIONS if method == "comm" else {}), **options}
        overrides = [f"method.options.{k}={json.dumps(v)}" for k, v in given.items()]
        runs.train(data / "mine.toml", data / "run", overrides=[*overrides, f'train.cache="{data / "cache"}"'])
        return data / "run"

    return train


def trained_without(data, key, method, **options):
    """Learn the same tasks without a class, in a run of its own."""
    given = {**(OPTIONS if method == "comm" else {}), **options}
    config = load_config(str(data / "mine.toml"), [f"method.options.{k}={json.dumps(v)}" for k, v in given.items()])
    return runs.learn_stream(config, data / "never_run", stream=without_class(make_stream(config), key))


def test_a_removed_class_is_in_no_file_of_the_new_version(whole, data):
    run = whole()
    old = read_predictions(run)
    before = bits(run)
    found, remains = runs.remove(run, "image/class_1")
    assert found.number == 2 and current_version(run) == 2 and bits(run) == before
    assert remains == ["the correlations in the covariance that the classes share"]
    version = found.folder
    new = read_predictions(version)
    gone = [key for key in old.keys if key.startswith("image/") and "class_1/" in key]
    assert len(gone) == 3 and set(new.keys) == set(old.keys) - set(gone)
    tensors, values = checkpoint.read(checkpoint.find_latest(version))
    assert ["image", "class_1"] not in values["keys"] and len(values["keys"]) == 7 == len(tensors["classes"])
    for name in ("tasks.json.gz", "known_tasks.json.gz", "before.json.gz"):
        assert "image/test/class_1" not in gzip.decompress((version / name).read_bytes()).decode()
        assert "image/train/class_1" not in gzip.decompress((version / name).read_bytes()).decode()
    summary = json.loads((version / "summary.json").read_text())
    assert summary["tasks"][0]["classes"] == ["class_0"]
    rows = summary["settings"]["agnostic"]["R"]
    assert len(rows) == 5 and all(len(row) == 4 for row in rows)
    first = json.loads((run / "summary.json").read_text())["settings"]["agnostic"]["R"]
    assert rows[1][1:] == first[1][1:] and rows[3][1:3] == first[3][1:3]  # rows of other tasks are as they were
    report.write(version)
    samples = (version / "samples.safetensors").read_bytes()
    assert b"image/test/class_1" not in samples
    page = (version / "report.html").read_bytes()
    assert b"image/test/class_1" not in page and b"image/train/class_1" not in page
    # It lives on: it answers, is compared, learns more, and goes back.
    assert found.comparison.differences[0].samples == len(new.keys)
    assert runs.evaluate(run, device="cpu").tasks_learned == 4
    assert ("image", "class_1") not in [(c.modality, c.name) for c in runs.list_classes(run)]
    assert [v.source for v in runs.list_versions(run)][1] == "without image/class_1"
    assert runs.rollback(run).number == 1
    assert ("image", "class_1") in [(c.modality, c.name) for c in runs.list_classes(run)]


def test_counts_of_unknown_samples_do_not_outlive_a_class_that_may_be_in_them(data):
    stream = make_stream(load_config(str(data / "all"), ["stream.classes_per_task=2"]))
    event = {"event": "unknown", "after": 1, "modality": "image", "known": 6, "new": 6, "auroc": 1.0, "flagged": []}
    removed = stream.tasks[3].class_ids[0]
    assert class_edits._RowsWithout(stream, removed).change(dict(event)) == []
    assert class_edits._RowsWithout(stream, None).change(dict(event)) == [event]  # a class was renamed


def test_cached_tokens_of_a_removed_class_are_deleted(whole, data):
    run = whole()
    learner = Learner.load(run, device="cpu", cache_dir=data / "cache")
    tasks = read_tasks(run / "tasks.json.gz").tasks
    gone = [s for s in tasks[0].samples if s.label == "class_1"]
    kept = [s for s in tasks[0].samples if s.label != "class_1"]
    assert all(has_tokens(learner.cache, learner.encoder, [*gone, *kept]))
    runs.remove(run, "image/class_1")
    fresh = Learner.load(run, device="cpu", cache_dir=data / "cache")
    assert not any(has_tokens(fresh.cache, fresh.encoder, gone)) and all(has_tokens(fresh.cache, fresh.encoder, kept))
    files = list((data / "cache").glob("*/*.shard"))
    assert files and all(len(read_keys(file)) for file in files)


@pytest.mark.parametrize(("method", "options"), [("ridge", {}), ("comm", {"prompts": False}), ("comm", {})])
@pytest.mark.parametrize("name", ["image/class_1", "text/class_2"])
def test_retraining_comes_to_the_bits_of_a_run_that_never_saw_the_class(whole, data, method, options, name):
    run = whole(method, **options)
    found, remains = runs.remove(run, name, retrain=True)
    assert remains == []
    other = trained_without(data, tuple(name.split("/")), method, **options)
    assert [t.class_ids for t in found.run.stream.tasks] == [t.class_ids for t in other.stream.tasks]
    assert bits(found.folder) == bits(data / "never_run")
    ours, theirs = (json.loads((f / "summary.json").read_text()) for f in (found.folder, data / "never_run"))
    assert ours["settings"] == theirs["settings"] and ours["calibration"] == theirs["calibration"]


def test_retraining_needs_the_data_that_were_learned(whole, data):
    run = whole()
    file = next((data / "all/image/train/class_0").iterdir())
    content = file.read_bytes()
    file.write_bytes(content + b"0")
    with pytest.raises(RunError, match=f"{file.name}: another content than when it was learned"):
        runs.remove(run, "image/class_1", retrain=True)
    file.unlink()
    with pytest.raises(RunError, match="restore it"):
        runs.remove(run, "image/class_1", retrain=True)
    assert current_version(run) == 1 and len(runs.list_versions(run)) == 1
    file.write_bytes(content)
    shutil.rmtree(data / "all/image/train/class_1")  # the class's own data are not needed
    assert runs.remove(run, "image/class_1", retrain=True)[0].number == 2


def test_removing_after_learning_more_and_learning_after_removing(trained, data):
    run = trained()
    learn(run, data)
    found, _ = runs.remove(run, "text/class_0")
    assert found.number == 3 and [t.name for t in found.run.stream.tasks] == ["image-0", "image-1", "text-0", "text-1"]
    shutil.rmtree(data / "more")
    again = runs.learn(run, data / "all", overrides=['stream.modalities=["text"]', "stream.check=false"])
    assert again.number == 4 and ("text", "class_0") in again.run.learner.classes.ids
    assert again.comparison.differences[0].samples == len(read_predictions(found.folder).keys)


def test_a_task_whose_only_class_is_removed_goes_too(whole, data):
    run = whole()
    runs.remove(run, "image/class_0")
    found, _ = runs.remove(run, "image/class_1")
    assert [t.name for t in found.run.stream.tasks] == ["image-1", "text-0", "text-1"]
    rows = json.loads((found.folder / "summary.json").read_text())["settings"]["agnostic"]["R"]
    assert len(rows) == 4 and all(len(row) == 3 for row in rows)


def test_a_stopped_removal_goes_on(whole, data, monkeypatch):
    run = whole()
    expected, _ = runs.remove(run, "image/class_1")
    wanted = bits(expected.folder), (expected.folder / "predictions.json.gz").read_bytes()
    runs.rollback(run)
    runs.prune(run, numbers=[2])

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(class_edits, "train", stop)
        with pytest.raises(KeyboardInterrupt):
            runs.remove(run, "image/class_1")
    assert current_version(run) == 1
    with pytest.raises(RunError, match="version 2 is not finished"):
        runs.remove(run, "image/class_1")
    found = runs.learn(run, resume=True)
    assert found.number == 2 and current_version(run) == 2
    assert (bits(found.folder), (found.folder / "predictions.json.gz").read_bytes()) == wanted


def test_a_renamed_class_keeps_its_samples_and_takes_data_with_its_former_name(whole, data):
    run = whole("comm")
    old = read_predictions(run)
    found = runs.rename(run, "image/class_1", "green", text="something green")
    assert found.number == 2 and read_record(found.folder).class_aliases == {("image", "class_1"): ("image", "green")}
    names = {c.name: c for c in runs.list_classes(run) if c.modality == "image"}
    assert "green" in names and "class_1" not in names and names["green"].text == "something green"
    assert names["green"].test == 3 and read_predictions(found.folder).keys == old.keys
    # The same class under another name is no changed answer.
    for setting in ("agnostic", "given"):
        compared = runs.compare_versions(run, 1, 2, setting)
        assert not [a for a in compared.changed if a.before == "image/class_1" or a.after == "image/class_1"]
    result = runs.evaluate(run, data / "all", device="cpu").result  # folders still have the former name
    assert ("image", "green") in [c for some in result.classes for c in some]
    more = data / "late"
    shutil.copytree(data / "all/image", more / "image")
    for name in ("class_0", "class_2", "class_3"):
        for split in ("train", "val", "test"):
            shutil.rmtree(more / "image" / split / name)
    for file in more.rglob("*.png"):
        file.write_bytes(file.read_bytes() + b"1")  # other samples
    again = runs.learn(run, more, overrides=["stream.check=false"])
    assert len(again.run.learner.classes) == 8
    assert next(c for c in runs.list_classes(run) if c.name == "green").train == 8


def only(data, name, folder, *names):
    """Return a folder of images of one class under other names, with contents of their own."""
    for number, new in enumerate(names):
        for split in ("train", "val", "test"):
            shutil.copytree(data / "all/image" / split / name, data / folder / "image" / split / new)
        for file in (data / folder).glob(f"image/*/{new}/*.png"):
            file.write_bytes(file.read_bytes() + folder.encode() + bytes([number]))
    return data / folder


def test_a_former_name_beside_the_name_of_today_is_refused(whole, data):
    """They may be two classes. A former name alone counts as the class, and a line says so."""
    run, display = whole(), KeptLines()
    runs.rename(run, "image/class_1", "green")
    both = only(data, "class_1", "both", "class_1", "green")
    checked = ["stream.check=false"]
    with pytest.raises(StreamError, match="'class_1' is a former name of 'green', so both would be learned as one"):
        runs.learn(run, both, overrides=checked)
    with pytest.raises(StreamError, match="'class_1' is a former name"):
        runs.learn(run, both, overrides=[*checked, "stream.classes_per_task=1"])  # in two tasks
    with pytest.raises(RunError, match="image/class_1: is a former name of image/green"):
        runs.rename(run, "image/class_0", "class_1")
    assert [v.number for v in runs.list_versions(run)] == [1, 2]
    found = runs.learn(run, only(data, "class_1", "former", "class_1"), overrides=checked, progress=display)
    assert "class image/class_1 of the new data counts as image/green: it was renamed" in display.lines
    assert len(found.run.learner.classes) == 8


def test_a_former_name_counts_in_every_modality_where_classes_are_shared(data):
    (data / "mine.toml").write_text(CONFIG.replace("METHOD", "ncm"))
    runs.train(data / "mine.toml", data / "run", overrides=["stream.shared_classes=true"])
    runs.rename(data / "run", "class_1", "green")
    found = runs.learn(data / "run", data / "more").run
    assert {name for _, name in found.learner.classes.keys} == {"class_0", "green", "class_2", "class_3"}
    assert ("image", "green") in [key for t in found.stream.tasks if t.modality == "text" for key in t.class_ids]


def test_the_former_name_of_a_removed_class_is_free(whole, data):
    run = whole()
    runs.rename(run, "image/class_1", "green")
    runs.remove(run, "image/green")
    found = runs.learn(run, only(data, "class_1", "again", "class_1"), overrides=["stream.check=false"])
    learner = found.run.learner
    assert learner.classes.keys[-1] == ("image", "class_1") and not learner.aliases and len(learner.classes) == 8
    assert ("image", "green") not in learner.classes.ids
    # The class of version 4 is not the one that version 2 knows by another name.
    answers = read_predictions(found.folder)
    for predicted in answers.predicted.values():
        predicted[0] = answers.classes.index(("image", "class_1"))
    write_predictions(found.folder / PREDICTIONS_FILE, answers)
    (changed,) = runs.compare_versions(run, 2, 4).changed
    (back,) = runs.compare_versions(run, 4, 2).changed
    assert (changed.before, changed.after) == ("image/class_0", "image/class_1") == (back.after, back.before)
    assert {d.name for d in runs.compare_versions(run, 1, 2).differences if d.scope == "class"} >= {"image/green"}
    assert runs.rename(run, "image/class_0", "green").number == 5


def test_retraining_without_a_class_keeps_the_former_names_of_the_others(whole, data):
    run = whole()
    runs.rename(run, "image/class_1", "green")
    runs.rename(run, "image/class_0", "blue")
    found, _ = runs.remove(run, "image/blue", retrain=True)
    kept = {("image", "class_1"): ("image", "green")}
    assert found.run.learner.aliases == kept == read_record(found.folder).class_aliases
    assert Learner.load(run, device="cpu").aliases == kept
    more = runs.learn(run, only(data, "class_1", "more_green", "class_1"), overrides=["stream.check=false"])
    assert len(more.run.learner.classes) == 7


def test_wrong_names_change_nothing(whole):
    run = whole()
    for call in (
        lambda: runs.remove(run, "image/class_9"),
        lambda: runs.rename(run, "class_0", "new"),
        lambda: runs.rename(run, "image/class_0", "class_1"),
    ):
        with pytest.raises(RunError):
            call()
    assert len(runs.list_versions(run)) == 1


def test_only_the_current_version_stays(whole, data):
    run = whole()
    found, _ = runs.remove(run, "image/class_1")
    kept = read_predictions(found.folder)
    freed = runs.prune(run, only_current=True)
    assert [v.number for v in freed] == [1] and [v.number for v in runs.list_versions(run)] == [2]
    names = {entry.name for entry in run.iterdir()}
    assert names == {"versions", "current.json", "config.json", "environment.json", ".lock"} & names | {"versions"}
    assert read_predictions(found.folder).keys == kept.keys
    assert runs.evaluate(run, device="cpu").tasks_learned == 4
    with pytest.raises(RunError, match="version 1 was removed"):
        runs.resume(run)
    with pytest.raises(RunError, match="no version 1; it has 2"):
        runs.rollback(run, to=1)
    again, _ = runs.remove(run, "image/class_0")
    assert again.number == 3 and runs.rollback(run).number == 2
