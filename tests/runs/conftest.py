"""A small stream, configs of runs over it, and the bits that a run came to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mmcl_fast import runs
from mmcl_fast.config import build_config
from mmcl_fast.learning import checkpoint, learner
from mmcl_fast.learning.learner import Learner
from mmcl_fast.progress import Silent
from tests.toy import ToyEncoder, write_folder

OPTIONS = {"epochs": 2, "realignment": "trained", "steps": 20, "sampled_features": 64, "batch_size": 8}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("safety") / "data", modalities=("image", "text"))


@pytest.fixture
def config(root, monkeypatch):
    monkeypatch.setattr(learner, "load_encoder", lambda name, **options: ToyEncoder())

    def make(method="comm", options=OPTIONS, **train):
        return build_config(
            {
                "stream": {"source": "folder", "path": str(root), "classes_per_task": 2, "order": "random"},
                "method": {"name": method, "options": options},
                "train": {"device": "cpu", **train},
            }
        )

    return make


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where there is enough: these tests write and sync many small files.

    A killed process loses nothing that it has written, whether or not a disk has it.
    """
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or shutil.disk_usage(memory).free < 1 << 30:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


class KeptLines(Silent):
    """A display that keeps the lines that stay."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, line: str) -> None:
        self.lines.append(line)


def bits(out: Path) -> dict[str, bytes]:
    tensors, _ = checkpoint.read(checkpoint.find_latest(out))
    return {k: v.contiguous().view(torch.uint8).numpy().tobytes() for k, v in tensors.items()}


def report_of(program: str, *words: object, timeout: int) -> dict[str, Any]:
    """Run a program of this folder in a process of its own, and return the JSON object of its last line."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.runs.{program}", *map(str, words)],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# ---- runs that learn more -------------------------------------------------------------------------------------------

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
