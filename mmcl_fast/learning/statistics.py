"""Intervals over seeds, and paired tests between methods that ran the same seeds.

Seeds are a sample of all seeds: what is said here is about the mean over seeds on one stream's test samples, not about
other data.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmcl_fast.errors import RunError

MOST_OUTCOMES = 1 << 16  # as many are listed one by one; where there are more, so many are drawn


@dataclass(frozen=True)
class Interval:
    """The mean of n values between its confidence limits; those are None where n = 1. ``sd`` has n - 1 below."""

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Paired:
    """The difference of two methods over the same seeds.

    Attributes:
        difference: its Student interval.
        t_p: two-sided p of the paired t-test; None for one seed or where all differences are equal.
        permutation_p: two-sided p of the sign-flip test: the share of the 2^n ways to swap the two methods within
            seeds whose mean difference is at least as far from 0. No normality is assumed. It is at least 2 / 2^n:
            with five seeds 0.0625, so that six or more are needed for anything below 0.05.
    """

    difference: Interval
    t_p: float | None
    permutation_p: float


def t_within(t: float, df: int) -> float:
    """P(|T| <= t) of Student's t with ``df`` >= 1 degrees of freedom: the finite sums of Abramowitz and Stegun
    (1964), 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(df))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = df % 2
    term = total = 0.0
    for k in range(odd, df - 1, 2):  # powers of the cosine: 0, 2, ..., df - 2 or 1, 3, ..., df - 2
        term = term * cosine**2 * (k - 1) / k if total else cosine if odd else 1.0
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def t_quantile(confidence: float, df: int) -> float:
    """The t with ``t_within(t, df)`` = confidence, by bisection."""
    low, high = 0.0, 1.0
    while t_within(high, df) < confidence:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if t_within(middle, df) < confidence else (low, middle)
    return high


def interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Student's interval, mean +- t sd / sqrt(n): exact for normal values.

    Raises:
        RunError: no value, one that is no finite number, or a confidence that is not between 0 and 1.
    """
    x = _checked(values, confidence)
    mean = float(x.mean())
    if len(x) == 1:
        return Interval(1, mean, None, None, None)
    sd = float(x.std(ddof=1))
    half = t_quantile(confidence, len(x) - 1) * sd / math.sqrt(len(x))
    return Interval(len(x), mean, sd, mean - half, mean + half)


def bootstrap(values: Sequence[float], confidence: float = 0.95, seed: int = 0) -> Interval:
    """The percentile bootstrap's interval of the mean (Efron 1979), for values far from normal. It keeps within the
    values' range and is too narrow for few of them: with five, prefer ``interval``.

    All n^n samples count where they are at most ``MOST_OUTCOMES`` (n <= 6); else so many are drawn from ``seed``.
    """
    x = _checked(values, confidence)
    n, mean = len(x), float(x.mean())
    if n == 1:
        return Interval(1, mean, None, None, None)
    if n**n <= MOST_OUTCOMES:
        rows = np.array(list(itertools.product(range(n), repeat=n)))
    else:
        rows = np.random.default_rng(seed).integers(n, size=(MOST_OUTCOMES, n))
    low, high = np.quantile(x[rows].mean(1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(n, mean, float(x.std(ddof=1)), float(low), float(high))


def paired(a: Sequence[float], b: Sequence[float], confidence: float = 0.95, seed: int = 0) -> Paired:
    """Compare two methods by a - b.

    Args:
        a, b: a metric of each method, place for place of the same seed.
        seed: of the swaps where 2^n are more than ``MOST_OUTCOMES`` (n > 16); so many are then drawn.

    Raises:
        RunError: as for ``interval``, or unlike lengths.
    """
    if len(a) != len(b):
        raise RunError(f"paired: {len(a)} and {len(b)} values; give both methods' values of the same seeds")
    d = _checked(a, confidence) - _checked(b, confidence)
    found, n = interval(d, confidence), len(d)
    same = np.ptp(d) <= 1e-12 * max(np.abs(d).max(), 1e-300)  # but for rounding
    t_p = None if found.sd is None or same else 1 - t_within(abs(found.mean) / (found.sd / math.sqrt(n)), n - 1)
    if 2**n <= MOST_OUTCOMES:
        signs, drawn = np.array(list(itertools.product((1, -1), repeat=n))), 0
    else:
        signs, drawn = np.random.default_rng(seed).integers(2, size=(MOST_OUTCOMES, n)) * 2 - 1, 1
    means = np.abs((signs * d).mean(1))
    extreme = int((means >= abs(found.mean) - 1e-9 * np.abs(d).max()).sum())  # sums of the same numbers round apart
    return Paired(found, t_p, (extreme + drawn) / (len(signs) + drawn))  # drawn: the true labels are one outcome more


def _checked(values: Sequence[float], confidence: float) -> np.ndarray:
    if not 0 < confidence < 1:
        raise RunError(f"confidence = {confidence}: give a number between 0 and 1")
    if len(values) == 0:
        raise RunError("statistics of no values: give one for each seed")
    for i, value in enumerate(values):
        if value is None or not math.isfinite(value):
            raise RunError(f"value {i} of {len(values)} is {value}: give a finite number for each seed")
    return np.asarray(values, dtype=np.float64)
