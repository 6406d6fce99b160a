"""The script that lays baselines beside what their authors report."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from mmcl_fast import runs
from mmcl_fast.config import load_config
from mmcl_fast.learning import learner
from mmcl_fast.runs.make_stream import make_stream
from tests.toy import ToyEncoder, write_folder

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "published.py"


@pytest.fixture(scope="module")
def script() -> dict:
    return runpy.run_path(str(SCRIPT))


def test_told_the_task_only_its_classes_compete(script, tmp_path, monkeypatch):
    monkeypatch.setattr(learner, "load_encoder", lambda name, **options: ToyEncoder())
    write_folder(tmp_path / "data", classes=4, train=3, test=6, modalities=("image", "text"))
    (tmp_path / "mine.toml").write_text(
        '[stream]\nsource = "folder"\npath = "data"\nclasses_per_task = 2\norder = "random"\n[encoder]\nname = "toy"\n'
        '[method]\nname = "zero_shot"\n[train]\ndevice = "cpu"\ncache = "cache"\n'
    )
    config = load_config(tmp_path / "mine.toml")
    runs.learn_stream(config, tmp_path / "run")
    known = learner.Learner.load(tmp_path / "run")
    shares = []
    for task in make_stream(config):
        found = known.predict([s.path or s.text for s in task.test], modality=task.modality, top_k=8)
        own = {name for _, name in task.class_ids}
        best = [next(name for m, name in p.labels if m == task.modality and name in own) for p in found]
        names = dict(zip(task.classes, (name for _, name in task.class_ids)))
        shares.append(sum(b == names[s.label] for b, s in zip(best, task.test)) / len(best))
    told = script["accuracy_with_task_given"](tmp_path / "run")
    last = json.loads((tmp_path / "run" / "summary.json").read_text())["settings"]["given"]["metrics"]["last"]
    assert told == pytest.approx(100 * sum(shares) / len(shares)) and told > last


def test_differences_are_those_of_the_same_seeds(script):
    found = {
        name: {"last": {"0": 50.0 + i, "1": 60.0 + i, "2": 70.0 + i}, "told": {"0": 90.0, "1": 90.0, "2": 90.0}}
        for i, name in enumerate(script["ROWS"])
    }
    found["ewc"] = {"last": {"0": 51.0, "1": 60.0, "2": 68.0}, "told": {"0": 91.0, "1": 92.0, "2": 93.0}}
    found["ewc:strength=0"]["last"] = {"2": 60.0, "1": 54.0, "0": 47.0}  # 4, 6 and 8 below; t = 4.303
    rows = [line for line in script["report"](found).splitlines() if "EWC: the penalty" in line]
    assert rows == ["| EWC: the penalty, against none (`ewc`, `ewc:strength=0`) | +6.0 ± 5.0 | +2.0 ± 2.5 |"]


def test_a_sweep_without_a_row_is_refused(script, tmp_path, monkeypatch, capsys):
    (tmp_path / "results.json").write_text(json.dumps({"rows": []}))
    monkeypatch.setattr(sys, "argv", ["published.py", str(tmp_path), str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="no row ewc, "):
        script["main"]()
    monkeypatch.setattr(sys, "argv", ["published.py", str(tmp_path / "none"), str(tmp_path / "out")])
    with pytest.raises(SystemExit):
        script["main"]()
    assert "finished mmcl-fast compare" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["published.py", "--rows"])
    script["main"]()
    assert "lwf:distillation=0" in capsys.readouterr().out
