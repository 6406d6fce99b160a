"""A small stream, configs of runs over it, and the bits that a run came to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmcl_fast.config import build_config
from mmcl_fast.learning import checkpoint, learner
from tests.toy import ToyEncoder, write_folder

OPTIONS = {"epochs": 2, "steps": 20, "sampled_features": 64, "batch_size": 8}


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
