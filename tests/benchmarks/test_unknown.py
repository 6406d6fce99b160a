"""The benchmark of unknown scores measures the score that predictions have."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("av")
from benchmarks import unknown
from mmcl_fast.encoders import Tokens
from mmcl_fast.learning.unknown import SHRINKAGE, UnknownScores


def test_the_benchmark_and_predictions_have_one_score():
    torch.manual_seed(0)
    scores, labels = UnknownScores(), torch.arange(4).repeat_interleave(30)
    queries = torch.eye(16)[labels] + 0.1 * torch.randn(120, 16)
    scores.add(Tokens(torch.zeros(120, 1, 1), queries), "image", [0, 1, 2, 3], labels, list(map(str, range(120))))
    strange = torch.randn(9, 16)
    found = scores.distance(Tokens(torch.zeros(9, 1, 1), strange), "image")
    unit = torch.nn.functional.normalize(strange, dim=1).double()
    expected = unknown.relative(SHRINKAGE)(unknown.Known(scores.memory, "image"), unit)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
