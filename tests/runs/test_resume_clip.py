"""A CLIP run stopped inside a loop goes on to the same bits, on the CPU and in the deterministic mode of a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmcl_fast import runs
from mmcl_fast.config import build_config
from mmcl_fast.learning import checkpoint
from mmcl_fast.runs import task_checkpoints
from tests.toy import write_folder


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_stopped_clip_run_resumes_to_the_same_bits(tmp_path: Path, monkeypatch, device: str) -> None:
    pytest.importorskip("transformers")
    from tests.tiny_models import write_clip

    write_folder(tmp_path / "data", classes=2, train=6, test=3, modalities=("image", "text"))
    write_clip(tmp_path / "model")
    config = build_config(
        {
            "stream": {"source": "folder", "path": str(tmp_path / "data")},
            "encoder": {"name": str(tmp_path / "model"), "prompt_blocks": 2},
            "method": {
                "name": "comm",
                "options": {
                    "epochs": 3,
                    "realignment": "trained",
                    "steps": 12,
                    "sampled_features": 32,
                    "batch_size": 4,
                },
            },
            "train": {"device": device, "deterministic": True, "checkpoint_every": 4},
        }
    )
    runs.learn_stream(config, tmp_path / "unstopped")
    real, calls = task_checkpoints.TaskCheckpoints.step, []

    def stop_now_and_then(self, loop, state):
        real(self, loop, state)
        calls.append(loop)
        if len(calls) in (3, 12, 25, 40):
            raise task_checkpoints.RunStopped(15)

    monkeypatch.setattr(task_checkpoints.TaskCheckpoints, "step", stop_now_and_then)
    stops = 0
    while not (tmp_path / "parts" / "summary.json").exists():
        try:
            runs.learn_stream(config, tmp_path / "parts", resume=True)
        except task_checkpoints.RunStopped:
            stops += 1
    assert stops == 4 and set(calls) == {"prompts", "re-alignment"}
    ends = [checkpoint.read(checkpoint.find_latest(tmp_path / name))[0] for name in ("unstopped", "parts")]
    assert ends[0].keys() == ends[1].keys() and all(torch.equal(ends[0][k], ends[1][k]) for k in ends[0])
