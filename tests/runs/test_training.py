"""The functions of the commands train and evaluate, called from Python."""

from __future__ import annotations

import json

import pytest

from mmcl_fast import runs
from mmcl_fast.config import load_config
from mmcl_fast.errors import ConfigError, MediaError, RunError
from mmcl_fast.learning.learner import Learner
from mmcl_fast.runs.sample_file import SAMPLES_FILE
from tests.runs.conftest import bits
from tests.toy import write_folder

CONFIG = """
[stream]
source = "folder"
path = "data"
classes_per_task = 2
order = "random"
[method]
name = "ridge"
[train]
device = "cpu"
"""


@pytest.fixture
def toml(tmp_path, config):  # ``config`` replaces the encoder by the toy
    write_folder(tmp_path / "data", train=4, test=3, modalities=("image", "text"))
    (tmp_path / "mine.toml").write_text(CONFIG)
    return tmp_path / "mine.toml"


def test_train_learns_a_config_by_name_with_overrides_and_keeps_samples(toml, tmp_path):
    result = runs.train(toml, tmp_path / "run", overrides=["train.seed=3"])
    stored = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert stored == result.summary and stored["seed"] == 3 and not result.warnings
    assert (tmp_path / "run" / SAMPLES_FILE).is_file() and len(result.learner.tasks) == len(result.stream) == 4
    with pytest.raises(RunError, match="is not empty"):
        runs.train(toml, tmp_path / "run", overrides=["train.seed=3"])


def test_train_and_learn_stream_come_to_the_same_bits(toml, tmp_path):
    result = runs.train(toml, tmp_path / "checked")
    runs.learn_stream(load_config(toml), tmp_path / "unchecked")
    assert bits(tmp_path / "checked") == bits(tmp_path / "unchecked")
    assert result.learner.checkpoints.stop_signal == 0


def test_train_checks_files_before_it_begins(toml, tmp_path):
    broken = sorted((tmp_path / "data/image/train/class_0").iterdir())[0]
    broken.write_bytes(b"no picture")
    with pytest.raises(MediaError, match=broken.name):
        runs.train(toml, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    result = runs.train(toml, tmp_path / "run", overrides=["stream.on_broken=skip"])
    assert [sample.key for sample in result.stream.skipped] == [f"image/train/class_0/{broken.name}"]


def test_resume_goes_on_with_the_runs_own_config(toml, tmp_path, monkeypatch):
    runs.train(toml, tmp_path / "unstopped", overrides=["train.seed=5"])
    real, learned = Learner.learn, []

    def stop_at_the_third(self, task):
        learned.append(task.name)
        if len(learned) == 3:
            raise KeyboardInterrupt
        return real(self, task)

    monkeypatch.setattr(Learner, "learn", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        runs.train(toml, tmp_path / "parts", overrides=["train.seed=5"])
    monkeypatch.setattr(Learner, "learn", real)
    found = runs.evaluate(tmp_path / "parts", device="cpu")
    assert (found.tasks_learned, found.tasks_total) == (2, 4) and found.result.names == learned[:2]
    result = runs.resume(tmp_path / "parts", overrides=["train.workers=1"])
    assert bits(tmp_path / "parts") == bits(tmp_path / "unstopped") and len(result.learner.tasks) == 4
    with pytest.raises(RunError, match=r"train\.seed was 5, is 6"):
        runs.resume(tmp_path / "parts", overrides=["train.seed=6"])


def test_evaluate_agrees_with_the_last_row_of_r(toml, tmp_path):
    summary = runs.train(toml, tmp_path / "run").summary
    found = runs.evaluate(tmp_path / "run", device="cpu")
    for setting, values in summary["settings"].items():
        assert found.result.accuracy(setting) == pytest.approx(values["R"][-1])
    assert found.notes == summary["notes"]
    assert runs.evaluate(tmp_path / "run", setting="given", split="val", device="cpu").result.counts == [4] * 4


def test_overrides_are_for_a_config_given_by_name(config, tmp_path):
    with pytest.raises(ConfigError, match="the config is made already"):
        runs.train(config(), tmp_path / "run", overrides=["train.seed=3"])
