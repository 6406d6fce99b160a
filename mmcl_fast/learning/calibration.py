"""Probabilities that mean what they say: a temperature for each modality, fitted on samples that were not learned.

    p(c | x) = softmax_c(s_c(x) / T_m)

with the scores s of a sample of modality m (temperature scaling, Guo et al. 2017, arXiv 1706.04599). T_m is the
minimum of the mean of

    L(x, y) = -(1 - e) log p(y | x) - e log p(y' | x)

over the modality's held-out samples, where samples of all modalities together count as ``POOLED_SAMPLES`` more. y' is
the best class besides y, and e = 1 / (n + 2) with n held-out samples of the modality (Platt 1999). So T stays above 0
where every answer is right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmcl_fast.learning.model import Model, trunk_tokens
from mmcl_fast.streams.sample import Task

POOLED_SAMPLES = 10.0
LEAST_SAMPLES = 8  # held-out samples in all, below which nothing is fitted
RANGE = 1e3  # T lies between the mean margin divided by this and times this
STEPS = 60  # of the search, each of which narrows it by a third
BINS = 15  # of the calibration error


@dataclass(frozen=True)
class Calibration:
    """The temperatures of a model.

    Attributes:
        temperatures: modality -> T.
        samples: modality -> number of held-out samples that it was fitted on.
        common: T of modalities without held-out samples; 1 where nothing was fitted.
    """

    temperatures: dict[str, float] = field(default_factory=dict)
    samples: dict[str, int] = field(default_factory=dict)
    common: float = 1.0

    def temperature(self, modality: str) -> float:
        """Return T of a modality."""
        return self.temperatures.get(modality, self.common)

    def probabilities(self, scores: Tensor, modality: str) -> Tensor:
        """Return the probabilities ``[n, C]`` of scores ``[n, C]`` of samples of a modality."""
        return (scores / self.temperature(modality)).softmax(1)

    def values(self) -> dict[str, Any]:
        """Return the JSON values."""
        return {"temperatures": self.temperatures, "samples": self.samples, "common": self.common}

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Calibration:
        """Return the calibration of JSON values; no values: one that changes nothing.

        Raises:
            ValueError, TypeError: they are not the values of one.
        """
        temperatures = {str(m): float(T) for m, T in dict(values.get("temperatures", {})).items()}
        common = float(values.get("common", 1.0))
        if not all(math.isfinite(T) and T > 0 for T in (common, *temperatures.values())):
            raise ValueError("a temperature is not a positive number")
        return cls(temperatures, {str(m): int(n) for m, n in dict(values.get("samples", {})).items()}, common)


def calibrate(model: Model, tasks: Sequence[Task], split: str = "val") -> Calibration:
    """Fit the temperatures of a model on the held-out samples of the tasks that it has learned.

    Args:
        model: the model.
        tasks: the tasks. Tasks without samples in the split are passed over.
        split: the split that holds samples which were not learned.

    Raises:
        MediaError: a file is broken.
    """
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for task in tasks:
        samples = task.split(split)
        if not samples:
            continue
        ids = {name: model.classes.ids[key] for name, key in zip(task.classes, task.class_ids)}
        tokens = trunk_tokens(model, samples, f"{task.name}: decode and trunk", keep=True)
        with torch.no_grad():
            scores = model.method.scores(tokens, task.modality, model.classes, given=False).double().cpu()
        found.setdefault(task.modality, []).append((scores, torch.tensor([ids[s.label] for s in samples])))
    scored = {m: (torch.cat([s for s, _ in some]), torch.cat([y for _, y in some])) for m, some in found.items()}
    return fit_temperatures(scored)


def fit_temperatures(scored: Mapping[str, tuple[Tensor, Tensor]]) -> Calibration:
    """Fit the temperatures.

    Args:
        scored: modality -> scores ``[n, C]`` float64 and true classes ``[n]`` int64 of held-out samples. Fewer than
            ``LEAST_SAMPLES`` samples, or a single class, give a calibration that changes nothing.
    """
    margins = {m: _margins(scores, labels) for m, (scores, labels) in scored.items() if scores.shape[1] > 1}
    total = sum(len(labels) for _, labels in scored.values())
    if total < LEAST_SAMPLES or not margins:
        return Calibration()
    size = float(torch.cat([margin.abs() for margin in margins.values()]).mean())
    if not math.isfinite(size) or size <= 0:
        return Calibration()

    def mean_loss(modality: str, temperature: float) -> float:
        scores, labels = scored[modality]
        log_p = (scores / temperature).log_softmax(1)
        smoothing = 1 / (len(labels) + 2)
        true = log_p.gather(1, labels.unsqueeze(1)).squeeze(1)
        return float(-(true - smoothing * margins[modality] / temperature).mean())

    def pooled_loss(temperature: float) -> float:
        return sum(len(scored[m][1]) * mean_loss(m, temperature) for m in margins) / total

    def loss_of(modality: str, temperature: float) -> float:
        count = len(scored[modality][1])
        pooled = POOLED_SAMPLES * pooled_loss(temperature)
        return (count * mean_loss(modality, temperature) + pooled) / (count + POOLED_SAMPLES)

    common = _minimum(pooled_loss, size)
    temperatures = {m: _minimum(lambda T, m=m: loss_of(m, T), size) for m in margins}
    return Calibration(temperatures, {m: len(scored[m][1]) for m in margins}, common)


def calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Return the expected calibration error in %, over ``BINS`` bins of equal width (Guo et al. 2017).

    It is sum_b n_b / n |accuracy of b - mean confidence of b|. Few samples make it larger than it is.

    Args:
        confidence: ``[n]``, the probability of each predicted class.
        correct: ``[n]`` bool, whether it is the true one.
    """
    rows = reliability(confidence, correct)
    return 100 * sum(n * abs(accuracy - mean) for _, n, mean, accuracy in rows) / max(len(confidence), 1)


def reliability(confidence: np.ndarray, correct: np.ndarray) -> list[tuple[float, int, float, float]]:
    """Return lower edge, samples, mean confidence and accuracy of each bin that has samples; see above."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    out = []
    for k in np.unique(bins):
        chosen = bins == k
        out.append((k / BINS, int(chosen.sum()), float(confidence[chosen].mean()), float(correct[chosen].mean())))
    return out


def _margins(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the score of each true class minus the best score of the others, ``[n]``."""
    true = scores.gather(1, labels.unsqueeze(1))
    others = scores.scatter(1, labels.unsqueeze(1), -math.inf).max(1).values
    return true.squeeze(1) - others


def _minimum(loss: Any, size: float) -> float:
    """Return the T of the least loss by golden section over log T. The loss is convex in 1 / T."""
    low, high = math.log(size / RANGE), math.log(size * RANGE)
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = loss(math.exp(left)), loss(math.exp(right))
    for _ in range(STEPS):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = loss(math.exp(left))
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = loss(math.exp(right))
    return math.exp((low + high) / 2)
