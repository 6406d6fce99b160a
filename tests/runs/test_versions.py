"""The versions of a run: going back, removing, stops and damage, and old tests whose files are gone."""

from __future__ import annotations

import gzip
import json
import shutil

import pytest

from mmcl_fast import report, runs
from mmcl_fast.errors import MediaError, RunError, StreamError
from mmcl_fast.learning import checkpoint
from mmcl_fast.learning.current_version import current_version
from mmcl_fast.learning.learner import Learner
from mmcl_fast.progress import Silent
from mmcl_fast.runs import new_version
from mmcl_fast.runs.prediction_file import read_predictions
from tests.runs.conftest import CONFIG, bits, learn
from tests.toy import write_folder


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


def test_a_learner_lists_the_versions_of_its_run(trained, data, tmp_path):
    run = trained()
    before = Learner.load(run, device="cpu")
    assert [v.number for v in before.versions] == [1]
    found = learn(run, data)
    listed = runs.list_versions(run)
    for folder in (run, found.folder, str(run)):  # of a version too
        assert [v.number for v in Learner.load(folder, device="cpu").versions] == [1, 2]
    assert Learner.load(run, device="cpu").versions == listed == before.versions == found.run.learner.versions
    before.save(tmp_path / "model")
    assert Learner.load(tmp_path / "model", device="cpu").versions == []
    shutil.rmtree(run)
    with pytest.raises(RunError, match="no config.json, so it is no run folder"):
        before.versions  # noqa: B018


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


def test_old_data_may_be_gone(trained, data):
    run = trained()
    shutil.rmtree(data / "first")
    # The trunk tokens of the old test files are in the user's cache; the files themselves are not asked for.
    found = learn(run, data)
    assert found.comparison.differences[0].samples == 6


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
        patch.setattr(new_version, "compare_predictions", stop)
        with pytest.raises(KeyboardInterrupt):
            learn(run, data)
    assert (run / "versions/2/summary.json").is_file() and not runs.list_versions(run)[1].finished
    with pytest.raises(RunError, match="not finished"):
        runs.rollback(run, 2)
    with pytest.raises(RunError, match="version 2 is not finished"):
        learn(run, data)
    # A limit that comes with --resume counts.
    monkeypatch.setattr(new_version.Comparison, "falls_over", lambda self, limit: self.differences[:1])
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


@pytest.mark.parametrize("function", ["move_pointer", "write_record"])
def test_a_stop_around_the_move_of_the_pointer_is_resumed(trained, data, monkeypatch, function):
    run = trained()
    real = getattr(new_version, function)

    def stop(folder, *args):
        if function == "move_pointer" or (args and args[0].comparison):
            raise KeyboardInterrupt
        real(folder, *args)

    with monkeypatch.context() as patch:
        patch.setattr(new_version, function, stop)
        with pytest.raises(KeyboardInterrupt):
            learn(run, data)
    assert current_version(run) == (1 if function == "move_pointer" else 2)
    assert runs.learn(run, resume=True).number == 2 and current_version(run) == 2
    assert [v.finished for v in runs.list_versions(run)] == [True, True]
