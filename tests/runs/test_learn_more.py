"""A run that learns more: its versions, the proof that nothing was lost, and going back."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from mmcl_fast import progress, report, runs
from mmcl_fast.errors import ConfigError, RunError, StreamError
from mmcl_fast.learning import checkpoint, unknown
from mmcl_fast.learning.current_version import current_folder, current_version
from mmcl_fast.learning.learner import Learner
from mmcl_fast.learning.unknown_counts import auroc
from mmcl_fast.runs import new_version
from mmcl_fast.runs.prediction_file import read_predictions
from tests.runs.conftest import CONFIG, OPTIONS, bits, learn
from tests.toy import ToyEncoder, write_folder


def events_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", ["ridge", "comm"])
def test_learning_more_comes_to_the_bits_of_one_run_over_all_tasks(trained, data, method):
    run = trained(method)
    before = bits(run)
    found = learn(run, data)
    assert found.number == 2 and found.folder == run / "versions/2" and not found.refused
    assert current_folder(run) == found.folder and bits(run) == before
    whole = (data / "mine.toml").read_text().replace("first", "all")
    (data / "whole.toml").write_text(whole)
    overrides = [f"method.options.{k}={json.dumps(v)}" for k, v in OPTIONS.items()] if method == "comm" else []
    at_once = runs.train(data / "whole.toml", data / "at_once", overrides=overrides)
    assert [t["name"] for t in found.run.summary["tasks"]] == ["image-0", "image-1", "text-0", "text-1"]
    assert [t.class_ids for t in found.run.stream.tasks] == [t.class_ids for t in at_once.stream.tasks]
    assert bits(found.folder) == bits(data / "at_once")
    # Row for row the same matrix. Only old tasks that were not learned yet had fewer classes to compete with.
    for name, setting in found.run.summary["settings"].items():
        theirs = at_once.summary["settings"][name]
        for after, (row, other) in enumerate(zip(setting["R"], theirs["R"])):
            seen = [i for i in range(4) if i < after or i >= 1]  # image-0 is the parent's only task
            assert [row[i] for i in seen] == [other[i] for i in seen]
        assert setting["metrics"]["forgetting"] == theirs["metrics"]["forgetting"]
        # No metric of forward transfer counts the first task.
        assert setting["metrics"]["fwt"] == theirs["metrics"]["fwt"] is not None
        assert setting["metrics"]["per_modality"]["text"]["fwt"] == theirs["metrics"]["per_modality"]["text"]["fwt"]
    rows, others = ([e for e in events_of(f) if e["event"] == "evaluation"] for f in (found.folder, data / "at_once"))
    for ours, theirs in zip(rows, others, strict=True):
        for key in ("correct", "count", "by_class"):
            assert ours[key][1:] == theirs[key][1:]
    # Everything that reads a run reads its current version.
    assert len(Learner.load(run, device="cpu").tasks) == 4
    assert runs.evaluate(run, device="cpu").tasks_learned == 4


def test_forward_transfer_goes_on_over_several_versions(trained, data):
    run = trained()
    learn(run, data)
    found = runs.learn(run, write_folder(data / "third", modalities=("depth",)))
    setting = found.run.summary["settings"]["agnostic"]
    R, metrics = setting["R"], setting["metrics"]
    assert metrics["fwt"] == pytest.approx(np.mean([R[i - 1][i - 1] - R[0][i - 1] for i in range(2, 6)]))
    assert metrics["per_modality"]["depth"]["fwt"] == pytest.approx(R[4][4] - R[0][4])


def test_without_unseen_tasks_nothing_is_tested_before_it_is_learned(data):
    (data / "mine.toml").write_text(CONFIG.replace("METHOD", "ridge"))
    runs.train(data / "mine.toml", data / "run", overrides=["train.evaluate_unseen=false"])
    found = learn(data / "run", data).run.summary["settings"]["agnostic"]
    assert found["R"][0] == [None] * 4 and found["R"][1][1:] == [None] * 3 and found["metrics"]["fwt"] is None


def test_the_parent_says_how_unknown_the_first_new_classes_are(trained, data, monkeypatch):
    monkeypatch.setattr(unknown, "LEAST_SAMPLES", 4)  # the parent held out eight samples
    run = trained()
    found = learn(run, data)
    first = found.run.stream.tasks[1]
    old = Learner.load(checkpoint.find_latest(run), device="cpu")
    known, new = (
        np.array([p.unknown for p in old.predict([s.path for s in task.test])]) for task in found.run.stream.tasks[:2]
    )
    at = next(n for n, e in enumerate(events_of(found.folder)) if e["event"] == "unknown")
    event, task_line = events_of(found.folder)[at : at + 2]
    assert (event["after"], event["modality"], first.modality) == (1, "image", "image") and task_line["task"] == 1
    assert event["auroc"] == pytest.approx(auroc(known, new), abs=1e-4) and event["new"] == event["known"] == 6
    again = runs.learn(run, write_folder(data / "third", modalities=("depth",)))
    kept = [e for e in events_of(again.folder) if e["event"] == "unknown" and e["after"] == 1]
    assert kept == [event]


def test_an_unfinished_run_forgets_the_task_that_it_did_not_learn(unfinished, data):
    """Its rows of R say nothing of that task any more; the new data's first task takes its column."""
    log = unfinished / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    at = next(n for n, line in enumerate(lines) if '"event": "task"' in line)
    stray = {"event": "unknown", "after": 1, "modality": "text", "known": 1, "new": 1, "auroc": 0.25, "flagged": []}
    log.write_text("".join([*lines[:at], json.dumps(stray) + "\n", *lines[at:]]))
    found = runs.learn(unfinished, write_folder(data / "third", modalities=("depth",)))
    R = found.run.summary["settings"]["agnostic"]["R"]
    nothing = Learner(ToyEncoder(), "ridge", device="cpu")
    assert R[0][1] == nothing.evaluate(found.run.stream.tasks).accuracy("agnostic")[1]
    assert 0.25 not in [e.get("auroc") for e in events_of(found.folder)]


def test_known_classes_learn_more_samples_and_an_old_test_set_stays(trained, data):
    run = trained()
    old = read_predictions(run)
    more = write_folder(data / "again", train=5, test=2, modalities=("image",))
    for file in sorted(more.rglob("*.png")):  # other pictures
        file.write_bytes(file.read_bytes() + bytes([len(file.name)]))
    found = runs.learn(run, more, overrides=["stream.check=false"])
    assert len(found.run.learner.classes) == 4  # two of them were known
    assert [t.name for t in found.run.stream.tasks] == ["image-0", "image-1"]
    new = read_predictions(found.folder)
    assert set(old.keys) < set(new.keys)
    prefix = json.loads((found.folder / "version.json").read_text())["prefix"]
    assert len(prefix) == 9 and all(k.startswith(prefix) for k in set(new.keys) - set(old.keys))
    assert {d.name for d in found.comparison.differences if d.scope == "class"} == {"image/class_0", "image/class_1"}


def test_the_comparison_names_what_fell_and_max_drop_refuses_it(trained, data, monkeypatch):
    run = trained()

    def worse(folder, name="predictions.json.gz"):
        found = read_predictions(folder, name)
        if name != new_version.BEFORE_FILE:
            found.predicted["agnostic"][:3] = (found.labels[:3] + 1) % len(found.classes)
        else:
            found.predicted["agnostic"][:] = found.labels
        return found

    monkeypatch.setattr(new_version, "read_predictions", worse)
    found = learn(run, data, max_drop=1.0)
    rows = {(d.scope, d.name): d for d in found.comparison.differences}
    fell = rows["class", "image/class_0"]
    assert fell.before == 100.0 and fell.after == 0.0 and fell.fall == 100.0 and fell.high < 0 and fell.samples == 3
    whole = rows["all", "all"]
    assert whole.samples == 6 and whole.after <= 50.0 and rows["task", "image-0"].after == whole.after
    assert len([c for c in found.comparison.changed if c.lost]) >= 3
    assert found.comparison.changed[0].before == found.comparison.changed[0].label == "image/class_0"
    # Three samples of a class cannot be clear of chance, but six of a task can.
    clear = bool(found.comparison.falls_over(1.0))
    assert bool(found.refused) == clear and current_version(run) == (1 if clear else 2)
    stored = json.loads((found.folder / "version.json").read_text())
    assert stored["refused"] == found.refused and stored["max_drop"] == 1.0 and len(stored["sha256"]) == 64
    assert new_version.Comparison.from_values(stored["comparison"]) == found.comparison


def test_a_refused_version_is_kept_and_can_be_chosen(trained, data, monkeypatch):
    run = trained()
    fall = new_version.Comparison("agnostic", [], [])
    monkeypatch.setattr(
        new_version.Comparison, "falls_over", lambda self, limit: [d for d in self.differences if d.scope == "all"]
    )
    found = learn(run, data, max_drop=0.0)
    assert found.refused.startswith("accuracy over all tasks fell by") and current_version(run) == 1
    assert [v.refused for v in runs.list_versions(run)] == ["", found.refused]
    assert runs.rollback(run, 2).number == 2 and current_version(run) == 2
    assert fall.values()["differences"] == []


def test_an_unfinished_run_learns_from_what_it_has(unfinished, data):
    found = runs.learn(unfinished, write_folder(data / "third", modalities=("depth",)))
    assert [t["name"] for t in found.run.learner.tasks] == ["image-0", "depth-0"]
    assert found.comparison.differences[0].samples == len(found.run.stream.tasks[0].test)


def test_a_new_run_folder_is_a_run_of_its_own(trained, data):
    run = trained()
    found = learn(run, data, out=data / "new")
    assert found.number == 1 and found.folder == data / "new" and current_version(run) == 1
    assert [v.number for v in runs.list_versions(run)] == [1]
    shutil.rmtree(run)
    assert len(Learner.load(data / "new", device="cpu").tasks) == 4
    assert runs.learn(data / "new", write_folder(data / "third", modalities=("depth",))).number == 2


def test_wrong_input_leaves_the_run_as_it_was(trained, data, tmp_path):
    run = trained()

    def left():
        return sorted(str(p.relative_to(run)) for p in run.rglob("*") if not p.name.startswith(".lock"))

    before = left()
    broken = sorted((data / "more/image/train/class_2").iterdir())[0]
    content = broken.read_bytes()
    for say, act in (
        ("no such folder", lambda: runs.learn(run, data / "nothing")),
        ("give the data to learn, or resume", lambda: runs.learn(run)),
        ("max_drop = 101", lambda: learn(run, data, max_drop=101)),
        ("learns on with the settings", lambda: runs.learn(run, data / "more", overrides=["train.seed=3"])),
        ("no such key", lambda: runs.learn(run, data / "more", overrides=["stream.nothing=3"])),
        ("is not empty", lambda: learn(run, data, out=data / "more")),
        ("shared_classes", lambda: runs.learn(run, data / "more", overrides=["stream.shared_classes=true"])),
        ("equal content in the new", lambda: runs.learn(run, data / "swapped")),
        ("no run folder", lambda: learn(data / "more", data)),
    ):
        if "equal" in say:  # an old test file as a new training file
            shutil.copytree(data / "more", data / "swapped")
            old = sorted((data / "first/image/test/class_0").iterdir())[0]
            shutil.copy(old, data / "swapped/image/train/class_2/other.png")
        with pytest.raises((RunError, ConfigError, StreamError), match=say):
            act()
        assert current_version(run) == 1
    broken.write_bytes(b"no picture")
    with pytest.raises(Exception, match=broken.name):
        learn(run, data)
    broken.write_bytes(content)
    assert [p for p in left() if p not in before] in ([], ["versions"])
    learn(run, data)
    with pytest.raises(RunError, match="a version of"):
        runs.learn(run / "versions/2", data / "more")
    (run / "current.json").write_text("{")
    with pytest.raises(RunError, match="not readable .*rollback"):
        Learner.load(run, device="cpu")
    runs.rollback(run, 2)
    newest = checkpoint.find_task_checkpoints(run / "versions/2")[-1][1]
    (newest / "model.safetensors").write_bytes(b"damaged")
    runs.rollback(run, 1)
    with pytest.raises(RunError, match="checksum"):
        runs.rollback(run, 2)
    assert current_version(run) == 1 and torch.is_tensor(Learner.load(run, device="cpu").classes.embedding)


def test_the_report_of_a_version_shows_what_changed(trained, data):
    run = trained()
    assert "What changed for old tasks" not in report.write(run).read_text()
    found = learn(run, data)
    page = report.write(run)
    assert page == found.folder / "report.html" and "What changed for old tasks" in page.read_text()
    text = page.with_suffix(".md").read_text()
    whole = found.comparison.differences[0]
    assert f"| all old tasks | {whole.samples} | {whole.before:.1f} | {whole.after:.1f} |" in text
    changed = found.comparison.changed
    right = sum(answer.after == answer.label for answer in changed)
    lost = sum(answer.lost for answer in changed)
    assert f"{len(changed)} answers changed: {right} became right, {lost} became wrong." in text
    record = json.loads((found.folder / "version.json").read_text())
    (found.folder / "version.json").write_text(json.dumps(record | {"refused": "task image-0 fell"}))
    assert "(refused: task image-0 fell)" in report.write(run).read_text()


def test_the_classes_of_a_version_with_their_samples_and_confusions(trained, data):
    run = trained()
    learn(run, data)
    found = runs.list_classes(run)
    assert [(c.modality, c.name) for c in found] == [
        *(("image", f"class_{i}") for i in range(4)),
        *(("text", f"class_{i}") for i in range(4)),
    ]
    assert all((c.train, c.test, c.text) == (4, 3, c.name.replace("_", " ")) for c in found)
    answers = read_predictions(current_folder(run))
    for c in found:
        right = round(c.accuracy * c.test / 100)
        assert right + sum(count for _, count in c.taken_for) == 3 and 0 < c.confidence <= 100
    assert sum(round(c.accuracy * 3 / 100) for c in found) == answers.correct("agnostic").sum()
    (run / "versions/2/tasks.json.gz").unlink()
    with pytest.raises(RunError, match="no tasks.json.gz; mmcl-fast train --resume .*versions/2 writes it"):
        runs.list_classes(run)
    runs.resume(run / "versions/2")
    assert runs.list_classes(run) == found


def test_learning_more_calibrates_anew_on_old_and_new_samples(trained, data):
    run = trained()
    assert Learner.load(run, device="cpu").calibration.samples == {}  # four validation samples are too few
    found = learn(run, data)
    assert found.run.learner.calibration.samples == {"image": 8, "text": 8}
    assert Learner.load(run, device="cpu").calibration == found.run.learner.calibration
    assert found.run.summary["calibration"]["samples"] == {"image": 8, "text": 8}


def test_a_config_beside_a_folder_of_its_name_is_not_read(trained, data):
    run = trained()
    (data / "more.toml").write_text("no config")
    assert learn(run, data).number == 2
    (data / "third.toml").write_text('[stream]\nsource = "folder"\npath = "deep"\nclasses_per_task = 2\n')
    write_folder(data / "deep", modalities=("depth",))
    assert [t.name for t in runs.learn(run, data / "third.toml").run.stream.tasks[4:]] == ["depth-0", "depth-1"]


def late(data, classes, count=3, *, modality="image", seed=9):
    """Write a folder without splits: so many new pictures of each class."""
    rng, root = np.random.default_rng(seed), data / f"late{seed}"
    for name in classes:
        folder = root / modality / name
        folder.mkdir(parents=True)
        for i in range(count):
            colour = 40 * int(name[-1]) + rng.integers(0, 60, (32, 32, 3))
            Image.fromarray(colour.astype(np.uint8)).save(folder / f"rec{i % 5}_{i}.png")
    return root


@pytest.mark.parametrize("split", [False, True])
def test_late_samples_of_a_known_class_need_no_tests(trained, data, split):
    run = trained()
    old = read_predictions(run)
    more = late(data, ["class_0"], 1)
    if split:  # only a train split
        (more / "image/train").mkdir()
        (more / "image/class_0").rename(more / "image/train/class_0")
    found = runs.learn(run, more)
    task = found.run.stream.tasks[-1]
    assert len(task.train) == 1 and task.classes == ("class_0",)
    assert {s.key for s in task.test} == {s.key for s in found.run.stream[0].test if s.label == "class_0"}
    assert found.run.summary["tasks"][-1] | {"train": 1, "test": 3} == found.run.summary["tasks"][-1]
    new = read_predictions(found.folder)
    assert len(new.keys) == len(old.keys) + 3 and set(new.keys) == set(old.keys)
    assert {d.name: d.samples for d in found.comparison.differences} == {
        **{"all": 6, "image": 6, "image-0": 6, "image/class_0": 3, "image/class_1": 3}
    }
    assert [(c.name, c.test, c.train) for c in runs.list_classes(run)] == [("class_0", 3, 5), ("class_1", 3, 4)]
    assert runs.evaluate(run, device="cpu").result.counts == [6, 3]
    report.write(found.folder)
    # A third version finds the samples that test twice in its parent.
    third = runs.learn(run, late(data, ["class_1", "class_0"], 2, seed=11))
    assert third.comparison.differences[0].samples == 6 and len(third.run.stream[-1].test) == 6


def test_new_classes_beside_known_ones_are_tested(trained, data):
    run = trained()
    more = late(data, ["class_0", "class_7"], 10)
    lines = []
    found = runs.learn(run, more, progress=SimpleProgress(lines))
    task = found.run.stream.tasks[-1]
    own = [s for s in task.test if s.label == "class_7"]
    assert len(own) == 2 and sum(s.label == "class_0" for s in task.train) == 9  # a tenth is validation
    assert {s.key for s in task.test if s.label == "class_0"} == {
        s.key for s in found.run.stream[0].test if s.label == "class_0"
    }
    assert "held out for testing: 2 of 20 samples" in lines
    one = late(data, ["class_0", "class_8"], 1, seed=3)
    with pytest.raises(StreamError, match="class_8: 1 of the two files"):
        runs.learn(run, one)


def test_groups_that_a_run_was_tested_on_are_not_learned(data):
    first = late(data, ["class_0", "class_1"], 20)
    config = CONFIG.replace("METHOD", "ridge").replace('"first"', '"late9"')
    (data / "mine.toml").write_text(config.replace("[method]", 'group = "regex:(rec[0-9])_"\n[method]'))
    run = data / "run"
    old = runs.train(data / "mine.toml", run).stream
    tested = {s.group for s in old[0].test}
    assert len(tested) == 1 and {s.group for s in old[0].train} == {f"rec{i}" for i in range(5)} - tested
    found = runs.learn(run, late(data, ["class_0"], 20, seed=5))
    new = found.run.stream[-1]
    assert {s.group for s in new.train} == {f"rec{i}" for i in range(5)} - tested
    assert {s.key for s in old[0].test if s.label == "class_0"} < {s.key for s in new.test}
    with_splits = late(data, ["class_0"], 20, seed=6)
    (with_splits / "image/train").mkdir()
    (with_splits / "image/class_0").rename(with_splits / "image/train/class_0")
    with pytest.raises(
        StreamError, match=f"group '{next(iter(tested))}' is in the new train split and in the old test"
    ):
        runs.learn(run, with_splits)
    assert first.exists()


class SimpleProgress(progress.Silent):
    """A display that keeps the lines that it is told."""

    def __init__(self, lines):
        self.lines = lines

    def log(self, line):
        self.lines.append(line)
