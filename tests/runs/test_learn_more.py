"""A run that learns more: its versions, the proof that nothing was lost, and going back."""

from __future__ import annotations

import gzip
import json
import shutil

import pytest
import torch

from mmcl_fast import report, runs
from mmcl_fast.errors import ConfigError, MediaError, RunError, StreamError
from mmcl_fast.learning import checkpoint
from mmcl_fast.learning.current_version import current_folder, current_version
from mmcl_fast.learning.learner import Learner
from mmcl_fast.progress import Silent
from mmcl_fast.runs import learn_more
from mmcl_fast.runs.prediction_file import read_predictions
from tests.runs.conftest import OPTIONS, bits
from tests.toy import write_folder

CONFIG = """
[stream]
source = "folder"
path = "first"
classes_per_task = 2
[method]
name = "METHOD"
[train]
device = "cpu"
"""


@pytest.fixture
def data(tmp_path, config):  # ``config`` replaces the encoder by the toy
    """Three folders: ``first``, ``more`` with other classes and a new modality, and ``all`` with both."""
    write_folder(tmp_path / "all", train=4, test=3, modalities=("image", "text"))
    shutil.copytree(tmp_path / "all", tmp_path / "first")
    shutil.copytree(tmp_path / "all", tmp_path / "more")
    shutil.rmtree(tmp_path / "first/text")
    for split in ("train", "val", "test"):
        for name in ("class_2", "class_3"):
            shutil.rmtree(tmp_path / "first/image" / split / name)
            shutil.rmtree(tmp_path / "more/image" / split / f"class_{int(name[-1]) - 2}")
    return tmp_path


@pytest.fixture
def trained(data):
    """Return a function that trains a method on ``first`` in the folder ``run``."""

    def train(method="ridge"):
        (data / "mine.toml").write_text(CONFIG.replace("METHOD", method))
        overrides = [f"method.options.{k}={json.dumps(v)}" for k, v in OPTIONS.items()] if method == "comm" else []
        runs.train(data / "mine.toml", data / "run", overrides=overrides)
        return data / "run"

    return train


@pytest.fixture
def unfinished(data, monkeypatch):
    """A run that was stopped after the first of its tasks."""
    (data / "mine.toml").write_text(CONFIG.replace("METHOD", "ridge").replace("first", "all"))
    real = Learner.learn

    def stop(self, task):
        if len(self.tasks) == 1:
            raise KeyboardInterrupt
        return real(self, task)

    monkeypatch.setattr(Learner, "learn", stop)
    with pytest.raises(KeyboardInterrupt):
        runs.train(data / "mine.toml", data / "run")
    monkeypatch.setattr(Learner, "learn", real)
    return data / "run"


def learn(run, data, **options):
    return runs.learn(run, data / "more", overrides=["stream.classes_per_task=2"], **options)


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
    # Row for row the same matrix; but for what was not asked before the new data were there.
    for name, setting in found.run.summary["settings"].items():
        for ours, theirs in zip(setting["R"], at_once.summary["settings"][name]["R"]):
            assert all(a is None or a == b for a, b in zip(ours, theirs))
        assert setting["metrics"]["forgetting"] == at_once.summary["settings"][name]["metrics"]["forgetting"]
    # Everything that reads a run reads its current version.
    assert len(Learner.load(run, device="cpu").tasks) == 4
    assert runs.evaluate(run, device="cpu").tasks_learned == 4


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
        if name != learn_more.BEFORE_FILE:
            found.predicted["agnostic"][:3] = (found.labels[:3] + 1) % len(found.classes)
        else:
            found.predicted["agnostic"][:] = found.labels
        return found

    monkeypatch.setattr(learn_more, "read_predictions", worse)
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
    assert learn_more.Comparison.from_values(stored["comparison"]) == found.comparison


def test_a_refused_version_is_kept_and_can_be_chosen(trained, data, monkeypatch):
    run = trained()
    fall = learn_more.Comparison("agnostic", [], [])
    monkeypatch.setattr(
        learn_more.Comparison, "falls_over", lambda self, limit: [d for d in self.differences if d.scope == "all"]
    )
    found = learn(run, data, max_drop=0.0)
    assert found.refused.startswith("accuracy over all tasks fell by") and current_version(run) == 1
    assert [v.refused for v in runs.list_versions(run)] == ["", found.refused]
    assert runs.rollback(run, 2).number == 2 and current_version(run) == 2
    assert fall.values()["differences"] == []


def test_history_rollback_diff_and_prune(trained, data):
    run = trained()
    learn(run, data)
    third = runs.learn(run, write_folder(data / "third", train=3, test=2, modalities=("depth",)))
    versions = runs.list_versions(run)
    assert [(v.number, v.parent, len(v.tasks), v.finished) for v in versions] == [
        (1, None, 1, True),
        (2, 1, 3, True),
        (3, 2, 1, True),
    ]
    assert versions[1].samples == 4 * 2 + 4 * 4 and versions[2].source == str(data / "third") and third.number == 3
    assert sum(v.size for v in versions) > 0 and versions[0].last is not None
    same = runs.compare_versions(run, 2, 2)
    assert not same.changed and all(d.fall == 0 and d.p == 1.0 for d in same.differences)
    with pytest.raises(RunError, match="version 3 is the current one"):
        runs.prune(run, numbers=[3])
    with pytest.raises(RunError, match="version 1 is the run folder"):
        runs.prune(run, numbers=[1])
    assert runs.rollback(run).number == 2 and current_version(run) == 2
    assert runs.rollback(run).number == 1
    with pytest.raises(RunError, match="has no parent here"):
        runs.rollback(run)
    runs.rollback(run, 3)
    assert [v.number for v in runs.prune(run, keep=0)] == [2]
    assert [v.number for v in runs.list_versions(run)] == [1, 3]
    # The chain holds: version 3 has everything it needs.
    assert len(Learner.load(run, device="cpu").tasks) == 5 and runs.evaluate(run, device="cpu").tasks_learned == 5
    with pytest.raises(RunError, match="no version 2; it has 1, 3"):
        runs.rollback(run)
    assert runs.learn(run, data / "third", overrides=["stream.check=false"]).number == 4


def test_a_stopped_version_is_resumed_to_the_same_bits(trained, data, monkeypatch):
    run = trained("comm")
    other = data / "other"
    shutil.copytree(run, other)
    learn(other, data)
    real, learned = Learner.learn, []

    def stop_at_the_second(self, task):
        learned.append(task.name)
        if len(learned) == 2:
            raise KeyboardInterrupt
        return real(self, task)

    monkeypatch.setattr(Learner, "learn", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        learn(run, data, max_drop=50.0)
    monkeypatch.setattr(Learner, "learn", real)
    assert current_version(run) == 1 and len(Learner.load(run, device="cpu").tasks) == 1
    assert [v.finished for v in runs.list_versions(run)] == [True, False]
    with pytest.raises(RunError, match="version 2 is not finished; go on with: mmcl-fast learn .* --resume"):
        learn(run, data)
    with pytest.raises(RunError, match="not finished"):
        runs.rollback(run, 2)
    found = runs.learn(run, resume=True)
    assert found.number == 2 and bits(run / "versions/2") == bits(other / "versions/2")
    assert json.loads((found.folder / "version.json").read_text())["max_drop"] == 50.0
    with pytest.raises(RunError, match="no unfinished version"):
        runs.learn(run, resume=True)


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


def test_old_data_may_be_gone(trained, data):
    run = trained()
    shutil.rmtree(data / "first")
    # The trunk tokens of the old test files are in the user's cache; the files themselves are not asked for.
    found = learn(run, data)
    assert found.comparison.differences[0].samples == 6


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


def test_kept_tokens_stand_for_old_files_that_are_gone(trained, data, monkeypatch):
    run = trained()
    old = read_predictions(run)
    shutil.rmtree(data / "first/image/test/class_0")
    changed = sorted((data / "first/image/test/class_1").iterdir())[0]
    changed.write_bytes(changed.read_bytes() + b"changed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(data / "other-cache"))  # nothing is in this one
    lines = []

    class Display(Silent):
        def log(self, line):
            lines.append(line)

    found = learn(run, data, progress=Display())
    # The three tokens of class_0 came from the run folder, and the changed file of class_1 is left out.
    assert found.comparison.differences[0].samples == 5
    assert any(
        line.startswith("1 old test and validation samples can't be asked again") and changed.name in line
        for line in lines
    )
    new = read_predictions(found.folder)
    kept = [key for key in old.keys if key in new.keys]
    assert len(kept) == 5 and sum("class_0" in key for key in kept) == 3
    # The new version has all it needs: its parent and all data may go.
    runs.rollback(run, 2)
    shutil.rmtree(data / "more")
    third = runs.learn(run, write_folder(data / "third", modalities=("depth",)))
    assert third.comparison.differences[0].samples == 5 + 2 * 3 + 4 * 3


def test_a_task_without_any_test_sample_left_says_so(trained, data, monkeypatch):
    (data / "mine.toml").write_text(CONFIG.replace("METHOD", "ridge") + "keep_test_gb = 0\n")
    runs.train(data / "mine.toml", data / "run")
    assert not (data / "run/test_tokens").exists()
    shutil.rmtree(data / "first")
    monkeypatch.setenv("XDG_CACHE_HOME", str(data / "other-cache"))
    with pytest.raises(StreamError, match="task image-0 has no test sample left .*gone.*restore"):
        learn(data / "run", data)


def test_tokens_over_the_budget_are_not_kept(trained, data):
    (data / "mine.toml").write_text(CONFIG.replace("METHOD", "ridge") + "keep_test_gb = 3e-6\n")
    result = runs.train(data / "mine.toml", data / "run")
    (line,) = result.warnings
    assert "of 10 test and validation samples are kept" in line and not line.startswith("trunk tokens of 10")
    size = sum(f.stat().st_size for f in (data / "run/test_tokens").rglob("*.shard"))
    assert 0 < size < 6000


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


def test_a_private_run_keeps_no_content_of_samples(data, monkeypatch):
    (data / "mine.toml").write_text(CONFIG.replace("METHOD", "ridge").replace("first", "all"))
    secret = (data / "all/text/test/class_1/0.txt").read_text()
    (data / "rows.csv").write_text(
        "".join(f"{secret} row {i},{'ab'[i % 2]},{s}\n" for i, s in enumerate(["train"] * 12 + ["test"] * 6))
    )
    (data / "rows.csv").write_text("text,label,split\n" + (data / "rows.csv").read_text())
    runs.train(data / "mine.toml", data / "run", overrides=["train.private=true"])
    table = data / "table.toml"
    table.write_text(f'[stream]\nsource = "table"\npath = "{data / "rows.csv"}"\n')
    for kind, private in (("open", False), ("private", True)):
        config = CONFIG.replace("METHOD", "ridge").replace('"folder"', '"table"').replace("first", "rows.csv")
        (data / "table.toml").write_text(config)
        runs.train(data / "table.toml", data / kind, overrides=[f"train.private={str(private).lower()}"])
    for folder in (data / "run", data / "private"):
        assert not (folder / "samples.safetensors").exists() and not (folder / "test_tokens").exists()
    words = secret.split()[0]

    def holds(folder):
        files = [f for f in folder.rglob("*") if f.is_file()]
        return any(
            words in (gzip.decompress(f.read_bytes()) if f.suffix == ".gz" else f.read_bytes()).decode(errors="replace")
            for f in files
        )

    assert holds(data / "open") and not holds(data / "private")
    assert "What it remembers" in report.write(data / "run").read_text()
    # The texts are known by their hashes: the user's cache still has their tokens.
    found = runs.learn(data / "private", write_folder(data / "third", modalities=("depth",)))
    assert found.comparison.differences[0].samples == 6 and not holds(data / "private")
    monkeypatch.setenv("XDG_CACHE_HOME", str(data / "other-cache"))
    runs.rollback(data / "private", 1)
    with pytest.raises(StreamError, match="has no test sample left"):
        runs.learn(data / "private", data / "third", overrides=["stream.check=false"])


# ---- what a reviewer found ------------------------------------------------------------------------------------------


def test_prune_keeps_as_many_as_it_says(trained, data):
    run = trained()
    write_folder(data / "third", modalities=("depth",))
    for _ in range(3):
        runs.learn(run, data / "third", overrides=["stream.check=false"])
    assert [v.number for v in runs.list_versions(run)] == [1, 2, 3, 4]
    assert runs.prune(run, keep=5) == [] and runs.prune(run, keep=2) == []
    assert [v.number for v in runs.prune(run, keep=1)] == [2]


def test_a_damaged_newest_checkpoint_is_no_parent_and_the_parents_log_stays(trained, data):
    run = trained()
    learn(run, data)
    newest = checkpoint.find_task_checkpoints(run / "versions/2")[-1][1]
    content = (newest / "model.safetensors").read_bytes()
    (newest / "model.safetensors").unlink()
    (newest / "model.safetensors").write_bytes(b"damaged")
    log = (run / "versions/2/metrics.jsonl").read_bytes()
    write_folder(data / "third", modalities=("depth",))
    with pytest.raises(RunError, match="checksum"):
        runs.learn(run, data / "third")
    (newest / "model.safetensors").write_bytes(content)
    runs.learn(run, data / "third")
    assert (run / "versions/2/metrics.jsonl").read_bytes() == log


def test_a_stop_before_the_comparison_is_recorded_can_be_resumed(trained, data, monkeypatch):
    run = trained()

    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(learn_more, "compare_predictions", stop)
        with pytest.raises(KeyboardInterrupt):
            learn(run, data)
    assert (run / "versions/2/summary.json").is_file() and not runs.list_versions(run)[1].finished
    with pytest.raises(RunError, match="not finished"):
        runs.rollback(run, 2)
    with pytest.raises(RunError, match="version 2 is not finished"):
        learn(run, data)
    # A limit that comes with --resume counts.
    monkeypatch.setattr(learn_more.Comparison, "falls_over", lambda self, limit: self.differences[:1])
    found = runs.learn(run, resume=True, max_drop=7.0)
    assert found.number == 2 and "--max-drop 7" in found.refused and current_version(run) == 1


def test_kept_tokens_serve_every_later_step(trained, data, monkeypatch):
    (data / "mine.toml").write_text(CONFIG.replace("METHOD", "ridge") + 'cache = "none"\n')
    run = data / "run"
    runs.train(data / "mine.toml", run)
    shutil.rmtree(data / "first")
    found = learn(run, data)  # with a temporary cache
    assert found.comparison.differences[0].samples == 6
    real = Learner.learn

    def stop(self, task):
        raise KeyboardInterrupt

    monkeypatch.setattr(Learner, "learn", stop)
    with pytest.raises(KeyboardInterrupt):
        runs.learn(run, write_folder(data / "third", modalities=("depth",)))
    monkeypatch.setattr(Learner, "learn", real)
    assert runs.learn(run, resume=True).number == 3
    assert runs.evaluate(run, device="cpu").tasks_learned == 5


def test_siblings_with_equal_names_of_files_are_not_taken_for_each_other(trained, data):
    run = trained()
    learn(run, data)
    runs.rollback(run, 1)
    other = shutil.copytree(data / "more", data / "other")
    for file in sorted(other.rglob("*.png")):
        file.write_bytes(file.read_bytes() + b"other")
    runs.learn(run, other, overrides=["stream.classes_per_task=2"])
    assert runs.compare_versions(run, 2, 3).differences[0].samples == 6  # of version 1 alone


def test_contents_are_compared_when_the_old_files_are_gone(trained, data):
    run = trained()
    old = sorted((data / "first/image/test/class_0").iterdir())[0]
    shutil.copy(old, data / "more/image/train/class_2/again.png")
    shutil.rmtree(data / "first")
    with pytest.raises(StreamError, match=r"again\.png: equal content in the new train split and the old test split"):
        learn(run, data)
    (data / "more/image/train/class_2/again.png").unlink()
    rows = "text,label,split\none word,a,train\nother word,b,train\nthird word,a,test\n"
    (data / "rows.csv").write_text(rows)
    runs.learn(run, data / "rows.csv")
    (data / "later.csv").write_text("text,label,split\nnew word,c,train\none word,c,test\n")
    with pytest.raises(StreamError, match="equal content in the new test split and the old train split"):
        runs.learn(run, data / "later.csv")


def test_damage_and_wrong_places_have_their_next_step(trained, data, monkeypatch):
    run = trained()
    learn(run, data)
    runs.rollback(run)
    (run / "versions/2/version.json").write_text("{")
    assert runs.list_versions(run)[1].refused.startswith("damaged: ")
    assert [v.number for v in runs.prune(run, numbers=[2])] == [2]
    with pytest.raises(RunError, match=f"is inside {run}"):
        learn(run, data, out=run / "versions/7")


def test_an_unfinished_first_version_can_be_gone_back_to(unfinished, data):
    runs.learn(unfinished, write_folder(data / "third", modalities=("depth",)))
    assert runs.rollback(unfinished).number == 1 and current_version(unfinished) == 1


def test_texts_that_are_not_kept_are_never_encoded(data, config, monkeypatch):
    rows = [f"word{i % 2} number {i},{'ab'[i % 2]},{'train' if i < 12 else 'test'}" for i in range(18)]
    (data / "rows.csv").write_text("text,label,split\n" + "\n".join(rows) + "\n")
    source = CONFIG.replace("METHOD", "ridge").replace('"folder"', '"table"').replace("first", "rows.csv")
    (data / "mine.toml").write_text(source + "private = true\n")
    run = data / "run"
    runs.train(data / "mine.toml", run)
    runs.learn(run, write_folder(data / "third", modalities=("depth",)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(data / "other-cache"))
    with pytest.raises(MediaError, match="its text is not kept"):
        runs.evaluate(run, device="cpu")


def test_a_config_beside_a_folder_of_its_name_is_not_read(trained, data):
    run = trained()
    (data / "more.toml").write_text("no config")
    assert learn(run, data).number == 2
    (data / "third.toml").write_text('[stream]\nsource = "folder"\npath = "deep"\nclasses_per_task = 2\n')
    write_folder(data / "deep", modalities=("depth",))
    assert [t.name for t in runs.learn(run, data / "third.toml").run.stream.tasks[4:]] == ["depth-0", "depth-1"]


@pytest.mark.parametrize("function", ["move_pointer", "write_record"])
def test_a_stop_around_the_move_of_the_pointer_is_resumed(trained, data, monkeypatch, function):
    run = trained()
    real = getattr(learn_more, function)

    def stop(folder, *args):
        if function == "move_pointer" or (args and args[0].comparison):
            raise KeyboardInterrupt
        real(folder, *args)

    with monkeypatch.context() as patch:
        patch.setattr(learn_more, function, stop)
        with pytest.raises(KeyboardInterrupt):
            learn(run, data)
    assert current_version(run) == (1 if function == "move_pointer" else 2)
    assert runs.learn(run, resume=True).number == 2 and current_version(run) == 2
    assert [v.finished for v in runs.list_versions(run)] == [True, True]
