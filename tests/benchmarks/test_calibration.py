"""The table of calibration errors of a sweep."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.calibration import table
from mmcl_fast.learning.evaluation import Evaluation
from mmcl_fast.learning.predictions import predictions_of
from mmcl_fast.runs.prediction_file import write_predictions
from mmcl_fast.streams.sample import Sample


def write_run(folder: Path, sure: float) -> None:
    """A run of two tasks with ten samples each. Half of the first one's answers are right, and all of the second's."""
    names = [("image", "cat"), ("audio", "bark")]
    samples = [[Sample(m, c, None, "", "test", f"{m}{i}") for i in range(10)] for m, c in names]
    predicted = [[names[i % 2] for i in range(10)], [names[1]] * 10]
    confidence = [np.full(10, sure), np.ones(10)]
    found = Evaluation(["a", "b"], [[k] for k in names], samples, [[k] * 10 for k in names], {"agnostic": predicted})
    found.confidence["agnostic"] = confidence
    folder.mkdir(parents=True)
    write_predictions(folder / "predictions.json.gz", predictions_of(found))
    summary = {"tasks": [{"modality": modality} for modality, _ in names]}
    (folder / "summary.json").write_text(json.dumps(summary))


def test_errors_over_seeds_and_modalities(tmp_path):
    write_run(tmp_path / "ridge/seed-0", 0.5)
    write_run(tmp_path / "ridge/seed-1", 0.9)
    (tmp_path / "comm/seed-0").mkdir(parents=True)  # not finished
    text = table(tmp_path, "agnostic")
    assert "| method | seeds | all | audio | image |" in text
    assert "| `ridge` | 2 | 10.0 (0.0 to 20.0) | 0.0 (0.0 to 0.0) | 20.0 (0.0 to 40.0) |" in text
    with pytest.raises(SystemExit, match="no probabilities of setting given"):
        table(tmp_path, "given")
    with pytest.raises(SystemExit, match="no finished run"):
        table(tmp_path / "comm", "agnostic")
