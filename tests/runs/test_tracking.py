"""TensorBoard and Weights & Biases follow a run, offline."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mmcl_fast import runs
from mmcl_fast.config import build_config
from mmcl_fast.errors import ConfigError
from mmcl_fast.learning.learner import Learner
from mmcl_fast.runs import tracking
from mmcl_fast.runs.metrics_log import MetricsLog
from mmcl_fast.streams.sample import Task
from tests.toy import ToyEncoder, write_folder


@pytest.fixture
def learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Learns two tasks into ``tmp_path/run``; returns the events of its metrics.jsonl."""
    write_folder(tmp_path / "data", classes=2, train=4, test=2, modalities=("image", "text"))
    monkeypatch.setattr("mmcl_fast.learning.learner.load_encoder", lambda *args, **options: ToyEncoder())

    def go(*track: str, resume: bool = False, progress=None) -> list[dict]:
        config = build_config(
            {
                "stream": {"source": "folder", "path": str(tmp_path / "data")},
                "method": {"name": "ridge"},
                "train": {"device": "cpu", "cache": "none", "workers": 0, "track": list(track)},
            }
        )
        runs.learn_stream(config, tmp_path / "run", resume=resume, progress=progress)
        return [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]

    return go


def expected(events: list[dict]) -> dict[str, list[tuple[int, Any]]]:
    out: dict[str, list[tuple[int, Any]]] = {}
    for event in events:
        if event["event"] != "resume":
            step, values = tracking.scalars(event, ["image-0", "text-0"])
            for name, value in values.items():
                out.setdefault(name, []).append((step, pytest.approx(value, rel=1e-6)))
    return out


def test_scalars_of_the_events(learn) -> None:
    events = learn()
    found = expected(events)
    rows = {e["after"]: e["row"] for e in events if e["event"] == "evaluation" and e["setting"] == "agnostic"}
    assert found["accuracy agnostic/image-0"] == [(after, row[0]) for after, row in rows.items()]
    assert found["accuracy agnostic/mean so far"] == [(1, rows[1][0]), (2, sum(rows[2]) / 2)]
    assert [step for step, _ in found["seconds/evaluation"]] == [0, 1, 2]
    assert found["summary agnostic/last"] == [(2, sum(rows[2]) / 2)]


def test_tensorboard_holds_the_events_once_after_a_resume_too(learn, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def shown() -> dict[str, list[tuple[int, float]]]:
        events = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
        return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}

    real_learn = Learner.learn
    taught: list[Task] = []

    def interrupted(self, task):
        if taught:
            raise KeyboardInterrupt
        taught.append(task)
        return real_learn(self, task)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "learn", interrupted)
        with pytest.raises(KeyboardInterrupt):
            learn("tensorboard")
    assert [step for step, _ in shown()["accuracy given/mean so far"]] == [1]
    events = learn("tensorboard", resume=True)
    assert shown() == expected(events)


class FakeRun:
    def __init__(self, fails: bool, **options) -> None:
        self.options, self.fails, self.finished = options, fails, False
        self.logged: list[tuple[int, dict]] = []

    def log(self, values, step) -> None:
        if self.fails and step == 1:
            raise OSError("no route to host")
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch):
    module: Any = ModuleType("wandb")
    module.runs, module.fails, module.Settings = [], False, dict
    module.init = lambda **options: module.runs.append(FakeRun(module.fails, **options)) or module.runs[-1]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_wandb_gets_each_event_once_and_a_resumed_run_is_the_same_one(learn, wandb, tmp_path: Path) -> None:
    events = learn("wandb")
    first = wandb.runs[0]
    found: dict[str, list[tuple[int, float]]] = {}
    for step, values in first.logged:
        for name, value in values.items():
            found.setdefault(name, []).append((step, value))
    assert found == expected(events) and first.finished
    assert first.options["config"]["method"]["name"] == "ridge" and first.options["dir"] == str(tmp_path / "run")
    learn("wandb", resume=True)
    assert wandb.runs[1].options["id"] == first.options["id"] and wandb.runs[1].logged == []


def test_a_tracker_that_fails_costs_the_run_nothing(learn, wandb) -> None:
    lines = []

    class Shown:
        def log(self, line):
            lines.append(line)

        def phase(self, *args):
            from mmcl_fast.progress import Silent

            return Silent().phase("")

    wandb.fails = True
    events = learn("wandb", progress=Shown())
    assert events[-1]["event"] == "summary"
    assert [line for line in lines if "wandb" in line and "no route to host" in line] and sum(
        "wandb" in line for line in lines
    ) == 1
    assert {step for step, _ in wandb.runs[0].logged} == {0}


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_named_before_anything_is_learned(learn, tmp_path: Path, monkeypatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, tracking.MODULES[name][0], None)
    with pytest.raises(ConfigError, match=rf"train.track: '{name}'.*mmcl-fast\[{name}\]"):
        learn(name)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match='train.track: expected a list of "tensorboard" and "wandb"'):
        build_config({"train": {"track": ["tensorbord"]}})


def test_wandb_itself_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name, value in (
        ("WANDB_MODE", "offline"),
        ("WANDB_CONFIG_DIR", "config"),
        ("WANDB_CACHE_DIR", "cache"),
        ("WANDB_DATA_DIR", "data"),
    ):
        monkeypatch.setenv(name, value if name == "WANDB_MODE" else str(tmp_path / value))
    log = MetricsLog(tmp_path / "metrics.jsonl")
    lines: list[str] = []
    with tracking.follow(["wandb"], tmp_path, log, ["a"], {"seed": 1}, lines.append):
        log.write({"event": "task", "task": 1, "seconds": {"prompts": 2.5}})
    written = b"".join(file.read_bytes() for file in tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert lines == [] and b"seconds/prompts" in written
