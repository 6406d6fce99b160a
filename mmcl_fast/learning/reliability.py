"""The expected calibration error and its bins: how far probabilities are from what happens. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 15


@dataclass(frozen=True)
class ReliabilityBin:
    """The samples whose confidence lies in one bin.

    Attributes:
        low: lower edge of the bin, 0 to 1; bins have equal widths.
        samples: their number.
        confidence: mean probability of their predicted classes.
        accuracy: share of right answers.
    """

    low: float
    samples: int
    confidence: float
    accuracy: float


def reliability_bins(confidence: np.ndarray, correct: np.ndarray) -> list[ReliabilityBin]:
    """Return the bins that have samples.

    Args:
        confidence: ``[n]``, the probability of each predicted class.
        correct: ``[n]`` bool, whether it is the true one.
    """
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        ReliabilityBin(
            k / BINS, int((bins == k).sum()), float(confidence[bins == k].mean()), float(correct[bins == k].mean())
        )
        for k in np.unique(bins).tolist()
    ]


def calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Return the expected calibration error in %, 0 without samples (Guo et al. 2017, arXiv 1706.04599).

    It is sum_b n_b / n |accuracy of b - mean confidence of b| over ``BINS`` bins b. Few samples make it too large.
    The arguments are the ones of ``reliability_bins``.
    """
    found = reliability_bins(confidence, correct)
    return 100 * sum(b.samples * abs(b.accuracy - b.confidence) for b in found) / max(len(confidence), 1)
