"""Samples that are flagged as unknown, counted from their scores (``mmcl_fast.learning.unknown``). Needs no torch."""

from __future__ import annotations

import numpy as np

from mmcl_fast.errors import ConfigError

PERCENTS = range(1, 101)  # rates that ``flagged_by_percent`` counts at


def require_rate(rate: float) -> None:
    """Check a rate of false alarms. Raises ConfigError."""
    if not 0 < rate < 1:
        raise ConfigError(f"--unknown {rate}: give a share between 0 and 1, such as 0.05")


def lowest_flagged(rate: float) -> float:
    """Return the score from which on a sample is flagged: 1 - rate, without the rounding of binary fractions."""
    return round(1 - rate, 9)  # 1 - 0.18 is above 0.82, which 82 of 100 samples give


def is_flagged(scores: np.ndarray, rate: float) -> np.ndarray:
    """Return which samples are flagged, ``[n]`` bool.

    Args:
        scores: ``[n]`` float64, from 0 to 1. A sample without a score has NaN, and is never flagged.
        rate: the share of samples of known classes that may be flagged by mistake, above 0 and at most 1.
    """
    return scores >= lowest_flagged(rate)


def flagged_by_percent(scores: np.ndarray) -> list[int]:
    """Return how many of n samples are flagged at each rate of ``PERCENTS``; the scores are as in ``is_flagged``."""
    return [int(is_flagged(scores, percent / 100).sum()) for percent in PERCENTS]


def auroc(known: np.ndarray, others: np.ndarray) -> float | None:
    """Return the probability that a sample of no known class scores higher than a known one; ties count half.

    Args:
        known: ``[n]`` float64, scores of samples of known classes. NaN is passed over.
        others: ``[m]`` float64, scores of samples of other classes, likewise.

    Returns:
        From 0 to 1, 0.5 for a coin toss. None where a side has no score.
    """
    known, others = np.sort(known[~np.isnan(known)]), others[~np.isnan(others)]
    if not len(known) or not len(others):
        return None
    below = np.searchsorted(known, others, "left") + np.searchsorted(known, others, "right")
    return float(below.mean() / (2 * len(known)))
