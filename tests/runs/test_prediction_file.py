"""The predictions that a run keeps of its test samples, and the bytes of its state."""

import gzip
import json

import numpy as np
import pytest

from mmcl_fast import runs
from mmcl_fast.errors import RunError
from mmcl_fast.learning.state_size import state_bytes
from mmcl_fast.runs import task_loop
from mmcl_fast.runs.prediction_file import PREDICTIONS_FILE, read_predictions, write_predictions


@pytest.mark.parametrize("method", ["ridge", "joint"])
def test_predictions_are_those_of_the_last_row(config, tmp_path, method):
    result = runs.learn_stream(config(method, {"epochs": 1} if method == "joint" else {}), tmp_path / "run")
    found = read_predictions(tmp_path / "run")
    samples = [(n, s) for n, task in enumerate(result.stream.tasks, 1) for s in task.test]
    assert found.keys == [s.key for _, s in samples] and found.tasks.tolist() == [n for n, _ in samples]
    assert found.groups == [""] * len(samples)
    assert [found.classes[k] for k in found.labels] == [(s.modality, s.label) for _, s in samples]
    for name, setting in result.summary["settings"].items():
        right = found.correct(name)
        by_task = [100 * right[found.tasks == n].mean() for n in range(1, len(result.stream) + 1)]
        assert by_task == pytest.approx(setting["R"][-1])


def test_unknown_scores_are_those_of_predict(config, tmp_path):
    result = runs.learn_stream(config("ridge", {}), tmp_path / "run")
    found = read_predictions(tmp_path / "run")
    samples = [s for task in result.stream.tasks for s in task.test]
    asked = result.learner.predict([s.path for s in samples])
    assert found.unknown == pytest.approx([p.unknown for p in asked], abs=1e-6)
    assert len(set(found.unknown.tolist())) > 3
    some = found.select(found.keys[:2])
    assert some.unknown.tolist() == found.unknown[:2].tolist()


def test_a_sample_without_a_score_stays_so_and_an_older_file_has_none(config, tmp_path):
    runs.learn_stream(config("ridge", {}), tmp_path / "run")
    found = read_predictions(tmp_path / "run")
    found.unknown[1] = np.nan
    write_predictions(tmp_path / PREDICTIONS_FILE, found)
    again = read_predictions(tmp_path)
    assert np.isnan(again.unknown).tolist() == [k == 1 for k in range(len(found.keys))]
    values = json.loads(gzip.decompress((tmp_path / PREDICTIONS_FILE).read_bytes()))
    assert values.pop("unknown")[1] is None
    (tmp_path / PREDICTIONS_FILE).write_bytes(gzip.compress(json.dumps(values).encode()))
    older = read_predictions(tmp_path)
    assert older.unknown is None and older.select(older.keys[:2]).unknown is None
    write_predictions(tmp_path / PREDICTIONS_FILE, older)
    assert read_predictions(tmp_path).unknown is None


def test_an_earlier_run_gets_the_file_when_it_is_resumed_and_it_has_the_same_bytes(config, tmp_path, monkeypatch):
    runs.learn_stream(config("ridge", {}), tmp_path / "run")
    file = tmp_path / "run" / PREDICTIONS_FILE
    before = file.read_bytes()
    file.unlink()
    assert read_predictions(tmp_path / "run") is None
    runs.learn_stream(config("ridge", {}), tmp_path / "run", resume=True)
    assert file.read_bytes() == before
    monkeypatch.setattr(task_loop, "write_predictions", None)  # a run that has the file is not evaluated again
    runs.learn_stream(config("ridge", {}), tmp_path / "run", resume=True)


def test_a_run_stopped_before_the_file_was_written_goes_on(config, tmp_path, monkeypatch):
    runs.learn_stream(config("ridge", {}), tmp_path / "whole")

    def stop(file, result):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(task_loop, "write_predictions", stop)
        with pytest.raises(KeyboardInterrupt):
            runs.learn_stream(config("ridge", {}), tmp_path / "run")
    assert not (tmp_path / "run" / "summary.json").exists()
    runs.learn_stream(config("ridge", {}), tmp_path / "run", resume=True)
    whole, parts = ((tmp_path / name / PREDICTIONS_FILE).read_bytes() for name in ("whole", "run"))
    assert whole == parts


@pytest.mark.parametrize(
    "damage",
    [
        lambda values: "[]",
        lambda values: json.dumps(values)[:-9],
        lambda values: json.dumps({**values, "labels": values["labels"][1:]}),
        lambda values: json.dumps({**values, "labels": [99] * len(values["labels"])}),
        lambda values: json.dumps({**values, "tasks": [0] * len(values["labels"])}),
        lambda values: json.dumps({**values, "tasks": [{}] * len(values["labels"])}),
        lambda values: json.dumps({**values, "predicted": {}, "keys": []}),
        lambda values: json.dumps({**values, "unknown": [0.5]}),
        lambda values: json.dumps({**values, "unknown": ["high", 0.5]}),
    ],
)
def test_a_damaged_file_is_named(config, tmp_path, damage):
    values = {
        "classes": [["image", "a"]],
        "keys": ["1", "2"],
        "groups": ["", ""],
        "tasks": [1, 1],
        "labels": [0, 0],
        "predicted": {"agnostic": [0, 0]},
    }
    file = tmp_path / PREDICTIONS_FILE
    file.write_bytes(gzip.compress(json.dumps(values).encode()))
    assert read_predictions(tmp_path).correct("agnostic").all()
    file.write_bytes(gzip.compress(damage(values).encode()))
    with pytest.raises(RunError, match=r"predictions\.json\.gz: not readable.*--resume"):
        read_predictions(tmp_path)
    file.write_bytes(b"no gzip")
    with pytest.raises(RunError, match=r"predictions\.json\.gz: not readable"):
        read_predictions(tmp_path)


def test_bytes_are_counted_from_the_state(config, tmp_path, monkeypatch):
    result = runs.learn_stream(config("ridge", {}), tmp_path / "run")
    method, tensors = result.learner.method, result.learner.method.state()[0]
    total = sum(np.asarray(t.cpu()).nbytes for t in tensors.values())
    name = max(tensors, key=lambda key: tensors[key].numel())
    monkeypatch.setattr(type(method), "class_state", (name[:-1],))
    of_classes = sum(np.asarray(t.cpu()).nbytes for key, t in tensors.items() if key.startswith(name[:-1]))
    found = state_bytes(method, 8)
    assert found == {"fixed": total - of_classes, "of_classes": of_classes, "classes": 8, "all_data": False}
    stored = json.loads((tmp_path / "run" / "summary.json").read_text())["state_bytes"]
    assert stored["fixed"] + stored["of_classes"] == total and stored["classes"] == len(result.learner.classes)
