"""The table of calibration errors of a sweep."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.calibration import error_and_floor, table
from benchmarks.calibration_choice import halves, judge
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
    row = next(line for line in text.splitlines() if line.startswith("| `ridge`"))
    cells = [cell.split("; ")[0] for cell in row.strip("| ").split(" | ")]
    assert cells == ["`ridge`", "2", "10.0 (0.0 to 20.0)", "0.0 (0.0 to 0.0)", "20.0 (0.0 to 40.0)"]
    with pytest.raises(SystemExit, match="no probabilities of setting given"):
        table(tmp_path, "given")
    with pytest.raises(SystemExit, match="no finished run"):
        table(tmp_path / "comm", "agnostic")


def test_the_error_of_exact_probabilities_falls_with_the_samples():
    rng = np.random.default_rng(1)
    found = []
    for count in (50, 5000):
        confidence = rng.uniform(0.2, 1, count)
        found.append(error_and_floor(confidence, rng.random(count) < confidence))
    assert found[0].exact > 5 > 2 > found[1].exact
    assert abs(found[1].measured - found[1].exact) < 1
    assert error_and_floor(np.full(50, 0.9), np.zeros(50, bool)).measured == pytest.approx(90)


def test_a_modality_of_its_own_needs_samples_to_have_its_own_temperature():
    """Modalities with few samples and the same scale want one temperature. Two with other scales want their own."""
    rng = torch.Generator().manual_seed(0)

    def scored(scale: float, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        scores = torch.randn(count, 4, generator=rng, dtype=torch.float64)
        labels = torch.multinomial((2 * scores).softmax(1), 1, generator=rng).squeeze(1)
        return scale * scores, labels

    same = {f"modality {number}": scored(2.0, 12) for number in range(20)}
    other = {"image": scored(2.0, 400), "audio": scored(200.0, 400)}
    assert judge(same, float("inf"))["loss"] < judge(same, 0.0)["loss"]
    assert judge(other, 0.0)["loss"] < judge(other, float("inf"))["loss"]
    assert halves(torch.tensor([3, 3, 3, 1, 1, 0])).tolist() == [True, False, True, True, False, True]
