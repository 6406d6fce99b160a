import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mmcl_fast import runs
from mmcl_fast.errors import EncoderError, RunError, UserError
from mmcl_fast.learning import checkpoint, learner
from mmcl_fast.learning.learner import Learner
from mmcl_fast.learning.unknown_counts import auroc
from mmcl_fast.runs.folder import SKIPPED
from mmcl_fast.runs.make_stream import make_stream
from mmcl_fast.runs.unknown_event import unknown_event
from mmcl_fast.streams.broken_samples import BrokenSample, broken_samples_to_jsonl
from tests.runs.conftest import OPTIONS
from tests.toy import ToyEncoder, write_folder


@pytest.fixture
def root(tmp_path):
    return write_folder(tmp_path / "data")


def summary(out):
    values = json.loads((out / "summary.json").read_text())
    values.pop("seconds")
    return values


def test_a_stopped_run_resumes_to_the_same_numbers(config, tmp_path, monkeypatch):
    runs.learn_stream(config(), tmp_path / "unstopped")
    real, calls = Learner.learn, []

    def stop_at_the_fourth(self, task):
        calls.append(task.name)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, task)

    monkeypatch.setattr(Learner, "learn", stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        runs.learn_stream(config(), tmp_path / "parts")
    monkeypatch.setattr(Learner, "learn", real)
    assert checkpoint.find_latest(tmp_path / "parts").name == "task-003"
    with open(tmp_path / "parts" / "metrics.jsonl", "a") as log:
        log.write('{"event": "evaluation", "after": 4, "row"')  # the line that a stop cut short
    runs.learn_stream(config(), tmp_path / "parts", resume=True)
    assert summary(tmp_path / "parts") == summary(tmp_path / "unstopped")
    tensors = [checkpoint.read(tmp_path / name / "checkpoints" / "task-006")[0] for name in ("unstopped", "parts")]
    assert tensors[0].keys() == tensors[1].keys() and all(torch.equal(tensors[0][k], tensors[1][k]) for k in tensors[0])


def test_a_broken_newest_checkpoint_falls_back_to_the_one_before(config, tmp_path):
    runs.learn_stream(config(), tmp_path / "run")
    before = summary(tmp_path / "run")
    file = tmp_path / "run" / "checkpoints" / "task-006" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    assert checkpoint.find_latest(tmp_path / "run").name == "task-005"
    runs.learn_stream(config(), tmp_path / "run", resume=True)
    assert summary(tmp_path / "run") == before


def test_rows_of_r_are_what_evaluation_says(config, tmp_path):
    result = runs.learn_stream(config(), tmp_path / "run")
    R = result.summary["settings"]["agnostic"]["R"]
    evaluated = [6, 2, 3, 4, 5, 6, 6]  # all before any task, then those learned and the next one
    assert [sum(v is not None for v in row) for row in R] == evaluated
    events = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    last = next(e for e in events if e["event"] == "evaluation" and e["after"] == 6 and e["setting"] == "agnostic")
    assert last["row"] == R[-1] == [100 * c / n for c, n in zip(last["correct"], last["count"])]
    assert [e["task"] for e in events if e["event"] == "task"] == [1, 2, 3, 4, 5, 6]
    for event in events:
        if event["event"] == "task":
            # A task may also borrow from other modalities.
            last = {"calibration"} if event["task"] == 6 else set()
            assert event["seconds"].keys() - {"borrowing"} == last | {
                "decode and trunk",
                "relevance",
                "features",
                "prompts",
                "statistics",
                "re-alignment",
                "bookkeeping",
                "checkpoint",
                "evaluation",
            }
            assert min(event["seconds"].values()) > 0
    again = Learner.load(tmp_path / "run", encoder=ToyEncoder())
    assert again.evaluate(make_stream(config()).tasks).accuracy("agnostic") == R[-1]


def test_new_classes_are_scored_before_they_are_learned(config, tmp_path):
    stream = runs.learn_stream(config("ridge", {}), tmp_path / "run").stream
    events = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    found = {event["after"]: event for event in events if event["event"] == "unknown"}
    modalities = [task.modality for task in stream.tasks]
    # A modality that was not learned has nothing to compare with.
    assert list(found) == [t for t in range(1, 6) if modalities[t] in modalities[:t]] and len(found) == 3
    for after, event in found.items():
        model = Learner.load(tmp_path / "run" / "checkpoints" / f"task-{after:03d}", encoder=ToyEncoder())
        own = [task for task in stream.tasks[: after + 1] if task.modality == modalities[after]]
        known, new = (
            np.array([p.unknown for task in some for p in model.predict([s.path for s in task.test])])
            for some in (own[:-1], own[-1:])
        )
        assert event["modality"] == own[-1].modality and (event["known"], event["new"]) == (len(known), len(new))
        assert event["auroc"] == pytest.approx(auroc(known, new), abs=1e-4)
        assert event["flagged"] == [sum(new >= round(1 - p / 100, 2)) for p in range(1, 101)]


def test_samples_of_known_classes_are_not_new(config, tmp_path):
    learned = runs.learn_stream(config("ridge", {}), tmp_path / "run")
    tasks, model = learned.stream.tasks[:2], learned.learner
    result = model.evaluate(tasks)
    known = [np.array([0.5])]
    assert unknown_event(1, "image", known, result, 1, model.classes.ids) is None
    first = tasks[1].class_ids[0]
    event = unknown_event(1, "image", known, result, 1, set(model.classes.ids) - {first})
    assert event["new"] == sum(label == first for label in result.labels[1]) < len(result.labels[1])
    assert unknown_event(1, "image", [], result, 1, ()) is None


def test_unseen_tasks_may_be_left_out(config, tmp_path):
    R = runs.learn_stream(config(evaluate_unseen=False), tmp_path / "run").summary["settings"]["given"]["R"]
    assert '"event": "unknown"' not in (tmp_path / "run" / "metrics.jsonl").read_text()
    assert R[0] == [None] * 6 and R[2][:2] != [None, None] and R[2][2:] == [None] * 4


def test_a_cumulative_method_is_evaluated_at_the_end_only(config, tmp_path):
    values = runs.learn_stream(config("joint", {"epochs": 1}), tmp_path / "run").summary["settings"]["agnostic"]
    assert all(v is None for row in values["R"][1:-1] for v in row) and None not in values["R"][-1]
    assert values["metrics"]["last"] is not None and values["metrics"]["avg"] is None


def test_another_config_is_refused_with_the_key(config, tmp_path):
    runs.learn_stream(config("zero_shot", {}), tmp_path / "run")
    with pytest.raises(RunError, match='method.name was "zero_shot", is "ridge"'):
        runs.learn_stream(config("ridge", {}), tmp_path / "run", resume=True)
    with pytest.raises(RunError, match="not empty"):
        runs.learn_stream(config("zero_shot", {}), tmp_path / "run")
    runs.learn_stream(config("zero_shot", {}, workers=1), tmp_path / "run", resume=True)


def test_a_folder_from_before_a_key_was_added_goes_on(config, tmp_path, monkeypatch):
    """Keys that config.json and the checkpoint lack are at their defaults; keys that exist no more are named."""
    out, real = tmp_path / "run", Learner.learn
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "learn", lambda self, task: real(self, task) if task.index < 2 else exit())
        with pytest.raises(SystemExit):
            runs.learn_stream(config(), out)
    before = json.loads((out / "config.json").read_text())
    older = json.loads(json.dumps(before))
    del older["media"], older["train"]["deterministic"], older["stream"]["late"], older["method"]["options"]["tau"]
    (out / "config.json").write_text(json.dumps(older))
    folder = checkpoint.find_latest(out)
    tensors, values = checkpoint.read(folder)
    del values["media"], values["precision"], values["options"]["tau"]
    checkpoint.write(folder, tensors, values)
    with pytest.raises(RunError, match="method.options.tau was 0.2, is 0.3"):
        runs.learn_stream(config(options={**OPTIONS, "tau": 0.3}), out, resume=True)
    runs.learn_stream(config(), out, resume=True)
    assert len(checkpoint.find_task_checkpoints(out)) == 6
    runs.learn_stream(config(), tmp_path / "unstopped")
    assert summary(out) == summary(tmp_path / "unstopped")
    for table, name in (
        (older["train"], "train.gone"),
        (older["method"]["options"], "method.options.gone"),
        (older, "gone"),
    ):
        table["gone"] = 1
        (out / "config.json").write_text(json.dumps(older))
        with pytest.raises(UserError, match=rf"config.json: .*\b{name}"):
            runs.learn_stream(config(), out, resume=True)
        del table["gone"]


def test_nothing_is_written_before_everything_is_there(config, tmp_path, monkeypatch):
    def no_weights(name, **options):
        raise EncoderError("somewhere: no weights")

    with monkeypatch.context() as patch:
        patch.setattr(learner, "load_encoder", no_weights)
        with pytest.raises(EncoderError):
            runs.learn_stream(config("zero_shot", {}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="can't be written"):
        runs.learn_stream(config("zero_shot", {}), tmp_path / "file" / "run")


def test_joint_takes_the_tokens_anew_and_goes_on_inside_its_fit(config, tmp_path, monkeypatch):
    from mmcl_fast.runs import task_checkpoints

    def make():
        return config("joint", {"epochs": 2, "batch_size": 8, "least_steps": 0}, checkpoint_every=7)

    runs.learn_stream(make(), tmp_path / "unstopped")
    assert [p.name for p in (tmp_path / "unstopped" / "checkpoints").iterdir()] == ["task-006"]
    real, calls = task_checkpoints.TaskCheckpoints.step, []

    def stop_late(self, loop, state):
        calls.append(loop)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return real(self, loop, state)

    with monkeypatch.context() as patch:
        patch.setattr(task_checkpoints.TaskCheckpoints, "step", stop_late)
        with pytest.raises(KeyboardInterrupt):
            runs.learn_stream(make(), tmp_path / "parts")
    left = sorted(p.name for p in (tmp_path / "parts" / "checkpoints").iterdir())
    assert left == ["inside-006-000001", "inside-006-000002"]
    monkeypatch.setattr(
        task_checkpoints.TaskCheckpoints, "step", lambda self, *args: (calls.append(args[0]), real(self, *args))
    )
    del calls[:]
    runs.learn_stream(make(), tmp_path / "parts", resume=True)
    assert len(calls) == 6 * 2 * 2 - 14  # six tasks of two batches, two epochs; 14 steps were kept
    assert summary(tmp_path / "parts") == summary(tmp_path / "unstopped")
    tensors = [checkpoint.read(tmp_path / name / "checkpoints" / "task-006")[0] for name in ("unstopped", "parts")]
    assert tensors[0].keys() == tensors[1].keys() and all(torch.equal(tensors[0][k], tensors[1][k]) for k in tensors[0])


def test_a_list_of_skipped_samples_counts_with_its_config_only(config, tmp_path):
    """A run that was stopped before it wrote config.json leaves one behind."""
    stream = make_stream(config("zero_shot", {}))
    sample = stream[0].train[0]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / SKIPPED).write_text(broken_samples_to_jsonl([BrokenSample.from_error(sample, "broken")]))
    runs.learn_stream(config("zero_shot", {}), tmp_path / "run", resume=True)
    assert make_stream(config("zero_shot", {}), tmp_path / "run").fingerprint == stream.fingerprint
    assert not any("do not decode" in note for note in summary(tmp_path / "run")["notes"])


def test_settings_can_be_chosen_without_reading_a_test_file(config, tmp_path):
    """With stream.test_on = "val" the test files are never opened: here they are not even whole."""

    made = config("ridge", {})
    damaged = [path for path in Path(made.stream.path).rglob("*") if path.is_file() and "test" in path.parts]
    for path in damaged:
        path.write_bytes(b"no picture, no text \xff")
    stream = made.stream.model_copy(update={"validation": 0.25, "test_on": "val"})
    values = runs.learn_stream(made.model_copy(update={"stream": stream}), tmp_path / "run").summary["settings"][
        "agnostic"
    ]
    assert damaged and values["metrics"]["last"] > 0
    again = made.model_copy(update={"stream": stream.model_copy(update={"test_on": "test"})})
    with pytest.raises(UserError):
        runs.learn_stream(again, tmp_path / "other")
