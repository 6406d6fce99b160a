"""Probabilities are calibrated on held-out samples, by modality."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmcl_fast.learning.calibration import POOLED_SAMPLES, Calibration, fit_temperatures
from mmcl_fast.learning.learner import Learner
from mmcl_fast.learning.reliability import ReliabilityBin, calibration_error, reliability_bins
from mmcl_fast.streams import Stream
from tests.toy import ToyEncoder, write_folder


def drawn(count: int, scale: float, seed: int, classes: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores whose softmax at temperature ``scale`` is the truth, and labels drawn from it."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, classes, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
    return scale * logits, labels


def test_the_temperature_of_each_modality_is_found():
    scored = {"image": drawn(4000, 20.0, 0), "audio": drawn(4000, 0.05, 1)}
    found = fit_temperatures(scored)
    assert found.temperature("image") == pytest.approx(20.0, rel=0.1)
    assert found.temperature("audio") == pytest.approx(0.05, rel=0.1)
    assert found.samples == {"image": 4000, "audio": 4000} and found.temperature("video") == found.common
    scores, labels = drawn(20000, 20.0, 2)
    p, best = found.probabilities(scores, "image").max(1)
    assert calibration_error(p.numpy(), (best == labels).numpy()) < 2.0
    raw, best = scores.softmax(1).max(1)
    assert calibration_error(raw.numpy(), (best == labels).numpy()) > 20.0


def test_it_is_the_minimum_of_the_documented_loss():
    scored = {"image": drawn(40, 3.0, 0), "audio": drawn(15, 3.0, 1)}
    found = fit_temperatures(scored)
    total = 55
    e = 1 / (total + 2)

    def pooled(T: float) -> float:
        out = 0.0
        for scores, labels in scored.values():
            log_p = (scores / T).log_softmax(1)
            true = log_p.gather(1, labels[:, None])[:, 0]
            other = log_p.scatter(1, labels[:, None], -math.inf).max(1).values
            out -= float(((1 - e) * true + e * other).sum()) / total
        return out

    def loss(T: float, modality: str) -> float:
        scores, labels = scored[modality]
        return float(F.cross_entropy(scores / T, labels, reduction="sum")) + POOLED_SAMPLES * pooled(T)

    for modality in scored:
        best = loss(found.temperature(modality), modality)
        assert all(best < loss(found.temperature(modality) * factor, modality) for factor in (0.97, 1.03))
    assert all(pooled(found.common) < pooled(found.common * factor) for factor in (0.97, 1.03))


def test_scores_that_are_all_right_keep_a_doubt_and_too_few_samples_change_nothing():
    right = F.one_hot(torch.arange(40) % 4, 4).double()
    found = fit_temperatures({"image": (right, torch.arange(40) % 4)})
    confidence = found.probabilities(right, "image").max(1).values
    assert 0.9 < float(confidence.min()) < 0.999
    assert fit_temperatures({"image": (right[:7], torch.arange(7) % 4)}) == Calibration()
    assert fit_temperatures({"image": (right[:, :1], torch.zeros(40, dtype=torch.long))}) == Calibration()
    assert fit_temperatures({}) == Calibration()
    equal = torch.zeros(40, 4, dtype=torch.float64)
    assert fit_temperatures({"image": (equal, torch.arange(40) % 4)}) == Calibration()


def test_classes_that_a_method_rules_out_do_not_end_the_calibration():
    scores, labels = drawn(400, 20.0, 0)
    ruled_out = scores.clone()
    ruled_out[0, labels[0]] = -math.inf  # its true class: this sample has no likelihood
    ruled_out[1] = ruled_out[1].masked_fill(torch.arange(6) != labels[1], -math.inf)  # nothing competes
    found = fit_temperatures({"image": (ruled_out, labels)})
    assert found.samples == {"image": 399}
    assert found.temperature("image") == pytest.approx(fit_temperatures({"image": (scores, labels)}).common, rel=0.05)


def test_the_error_and_its_bins():
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.5, 0.5])
    correct = np.array([1, 1, 1, 0, 1, 0], bool)
    assert calibration_error(confidence, correct) == pytest.approx(100 * (4 / 6 * 0.2 + 0.0))
    assert reliability_bins(confidence, correct) == [
        ReliabilityBin(7 / 15, 2, 0.5, 0.5),
        ReliabilityBin(14 / 15, 4, 0.95, 0.75),
    ]
    assert calibration_error(np.array([1.0]), np.array([True])) == 0.0
    assert calibration_error(np.empty(0), np.empty(0, bool)) == 0.0


@pytest.mark.parametrize("values", [{"temperatures": {"image": 0.0}}, {"common": -1.0}, {"common": "x"}])
def test_wrong_values_are_refused(values):
    with pytest.raises(ValueError, match=r"positive|could not convert"):
        Calibration.from_values(values)


def test_a_learner_calibrates_saves_and_predicts_with_it(tmp_path):
    stream = Stream.from_folder(write_folder(tmp_path / "data", train=6, modalities=("image", "text")))
    learner = Learner(ToyEncoder(), "ridge", device="cpu")
    for task in stream:
        learner.learn(task)
    before = learner.evaluate(stream.tasks)
    file = tmp_path / "data/image/test/class_1/0.png"
    raw = learner.predict([file], top_k=4)[0]
    assert learner.calibrate(stream.tasks) is learner.calibration
    assert learner.calibration.samples == {"image": 8, "text": 8}  # the validation samples
    after = learner.evaluate(stream.tasks)
    assert after.predicted == before.predicted
    error = [
        calibration_error(
            np.concatenate(found.confidence["agnostic"]),
            np.array([a == b for x, y in zip(found.labels, found.predicted["agnostic"]) for a, b in zip(x, y)]),
        )
        for found in (before, after)
    ]
    assert error[1] < error[0] - 20
    sure = learner.predict([file], top_k=4)[0]
    assert sure.labels == raw.labels and sure.probabilities[0] > raw.probabilities[0] + 0.2
    # Evaluate records the probabilities that predict gives.
    position = [s.path for s in after.samples[0]].index(file)
    assert after.confidence["agnostic"][0][position] == pytest.approx(sure.probabilities[0], abs=1e-5)
    own = after.confidence["given_masked"][0]
    assert (own >= after.confidence["given"][0] - 1e-9).all() and own.max() <= 1.0
    learner.save(tmp_path / "model")
    again = Learner.load(tmp_path / "model", encoder=ToyEncoder(), device="cpu")
    assert again.calibration == learner.calibration
