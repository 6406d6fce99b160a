"""Probabilities that mean what they say: a temperature for each modality, fitted on samples that were not learned.

    p(c | x) = softmax_c(s_c(x) / T_m)

with the scores s of a sample of modality m (temperature scaling, Guo et al. 2017, arXiv 1706.04599). T_m is the
minimum of

    sum over the modality's n held-out samples of -log p(y | x)  +  POOLED_SAMPLES M(T)

    M(T) = mean over all N held-out samples of -(1 - e) log p(y | x) - e log p(y' | x)

y' is the best class besides y, and e = 1 / (N + 2) (Platt 1999). So T stays above 0 where every answer is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

POOLED_SAMPLES = 3.0  # for which the samples of all modalities together count
LEAST_SAMPLES = 8  # held-out samples in all, below which nothing is fitted
RANGE = 1e3  # T lies between the mean margin divided by this and times this
STEPS = 60  # of the search; each narrows it by a third


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


def fit_temperatures(
    scored: Mapping[str, tuple[Tensor, Tensor]], pooled_samples: float = POOLED_SAMPLES
) -> Calibration:
    """Fit the temperatures.

    Args:
        scored: modality -> scores ``[n, C]`` float64 on the CPU, and true classes ``[n]`` int64 of held-out samples.
            Fewer than ``LEAST_SAMPLES`` samples, or a single class, give a calibration that changes nothing.
        pooled_samples: for how many of a modality's samples the samples of all modalities together count.
    """
    # A method may give -inf to classes that it rules out. A true class that is ruled out has no likelihood to fit.
    finite = {m: s.gather(1, y.unsqueeze(1)).squeeze(1).isfinite() for m, (s, y) in scored.items() if s.shape[1] > 1}
    scored = {m: (scored[m][0][kept], scored[m][1][kept]) for m, kept in finite.items() if kept.any()}
    margins = {m: _margins(scores, labels) for m, (scores, labels) in scored.items()}
    total = sum(len(scored[m][1]) for m in margins)
    if total < LEAST_SAMPLES or not margins:
        return Calibration()
    known = torch.cat(list(margins.values()))
    known = known[known.isfinite()]  # without samples for which no other class competes
    size = float(known.abs().mean())  # NaN without any sample
    if not size > 0:
        return Calibration()

    smoothing = 1 / (total + 2)

    def loss(modality: str, temperature: float) -> float:
        scores, labels = scored[modality]
        return float(F.cross_entropy(scores / temperature, labels, reduction="sum"))

    def pooled_loss(temperature: float) -> float:
        # log p(y) - log p(y') is the margin divided by T.
        smooth = smoothing * float(known.sum()) / temperature
        return (sum(loss(m, temperature) for m in margins) + smooth) / total

    def loss_of(modality: str) -> Callable[[float], float]:
        return lambda temperature: loss(modality, temperature) + pooled_samples * pooled_loss(temperature)

    common = _minimum(pooled_loss, size)
    temperatures = {m: _minimum(loss_of(m), size) for m in margins}
    return Calibration(temperatures, {m: len(scored[m][1]) for m in margins}, common)


def _margins(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the score of each true class minus the best score of the others, ``[n]``."""
    true = scores.gather(1, labels.unsqueeze(1))
    others = scores.scatter(1, labels.unsqueeze(1), -math.inf).max(1).values
    return true.squeeze(1) - others


def _minimum(loss: Callable[[float], float], size: float) -> float:
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
