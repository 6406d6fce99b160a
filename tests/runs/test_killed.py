"""A killed run loses nothing but the steps since its last checkpoint, and goes on to the same bits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.runs.conftest import report_of

COMM = {"epochs": 2, "realignment": "trained", "steps": 20, "sampled_features": 64, "batch_size": 3}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "options", "points", "every"),
    [
        ("comm", COMM, 44, 5),
        ("comm", {**COMM, "relevance": "mlp"}, 4, 90),
        ("joint", {"epochs": 2, "batch_size": 8}, 6, 3),
    ],
    ids=["comm", "comm with three loops", "joint"],
)
def test_killed_anywhere_a_run_resumes_to_the_same_bits(
    tmp_path: Path, method: str, options: dict, points: int, every: int
):
    words = (tmp_path, method, json.dumps(options), points, every, 0)
    report = report_of("killing", *words, timeout=1800)
    print(json.dumps(report))
    assert report["faults"] == []
    assert report["identical"] == points and report["points"] >= points - 1  # one from outside may come too late
    assert len(report["kinds"]) >= min(points, 9)
