"""A small stream, configs of runs over it, and the bits that a run came to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mmcl_fast.config import build_config
from mmcl_fast.learning import checkpoint, learner
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
