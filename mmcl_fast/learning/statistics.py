"""Intervals over seeds, and paired tests between methods that ran the same seeds.

The seeds are a sample of all seeds. So an interval or a p-value here is about the mean over seeds, on the test samples
of one stream. It says nothing about other data.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmcl_fast.errors import RunError

MAX_OUTCOMES = 1 << 16  # outcomes that are listed one by one; where more exist, this many are drawn


@dataclass(frozen=True)
class Interval:
    """The mean of n values and its confidence interval.

    Attributes:
        n: number of values.
        mean: their mean.
        sd: their standard deviation with n - 1 in the denominator; None for one value.
        low, high: the limits of the interval; None for one value.
    """

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Paired:
    """The difference of two methods over the same seeds.

    Attributes:
        difference: the Student interval of the mean difference.
        t_p: two-sided p of the paired t-test; None for one seed or where all differences are equal.
        permutation_p: two-sided p of the sign-flip test, which assumes no normality. It is the share of the 2^n ways
            to swap the two methods within seeds whose mean difference is at least as far from 0. It is at least
            2 / 2^n: with five seeds 0.0625, so a p below 0.05 needs six seeds.
    """

    difference: Interval
    t_p: float | None
    permutation_p: float


def interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return Student's interval, mean +- t sd / sqrt(n), which is exact for normal values.

    Example::

        interval([70.0, 72.0, 71.0, 69.0, 73.0])  # mean 71.0, low 69.04, high 72.96

    Raises:
        RunError: no value, a value that is no finite number, or a confidence that is not between 0 and 1.
    """
    from scipy import stats  # imported late: it takes half a second, and few commands need it

    x = _check(values, confidence)
    mean = float(x.mean())
    if len(x) == 1:
        return Interval(1, mean, None, None, None)
    sd = float(x.std(ddof=1))
    half = float(stats.t.ppf((1 + confidence) / 2, len(x) - 1)) * sd / math.sqrt(len(x))
    return Interval(len(x), mean, sd, mean - half, mean + half)


def bootstrap(values: Sequence[float], confidence: float = 0.95, seed: int = 0) -> Interval:
    """Return the percentile bootstrap interval of the mean (Efron 1979), for values far from normal.

    It keeps within the range of the values and is too narrow for few of them: with five, prefer :func:`interval`.
    All n^n resamples count where they are at most ``MAX_OUTCOMES`` (n <= 6). For more values that many are drawn from
    ``seed``. It is ours because scipy.stats.bootstrap only draws, also where few resamples exist.

    Raises:
        RunError: as for :func:`interval`.
    """
    x = _check(values, confidence)
    n, mean = len(x), float(x.mean())
    if n == 1:
        return Interval(1, mean, None, None, None)
    if n**n <= MAX_OUTCOMES:
        resamples = np.array(list(itertools.product(range(n), repeat=n)))
    else:
        resamples = np.random.default_rng(seed).integers(n, size=(MAX_OUTCOMES, n))
    low, high = np.quantile(x[resamples].mean(1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(n, mean, float(x.std(ddof=1)), float(low), float(high))


def paired(a: Sequence[float], b: Sequence[float], confidence: float = 0.95, seed: int = 0) -> Paired:
    """Compare two methods by the differences a - b.

    Args:
        a, b: a metric of each method; ``a[i]`` and ``b[i]`` are from the same seed.
        confidence: level of the interval of the mean difference.
        seed: fixes the swaps that are drawn where 2^n exceeds ``MAX_OUTCOMES`` (n > 16).

    Raises:
        RunError: as for :func:`interval`, or ``a`` and ``b`` of different lengths.
    """
    from scipy import stats

    if len(a) != len(b):
        raise RunError(f"paired: {len(a)} and {len(b)} values; give both methods' values of the same seeds")
    d = _check(a, confidence) - _check(b, confidence)
    difference = interval(d, confidence)
    equal = np.ptp(d) <= 1e-12 * max(np.abs(d).max(), 1e-300)  # up to rounding
    t_p = None if difference.sd is None or equal else float(stats.ttest_1samp(d, 0.0).pvalue)
    return Paired(difference, t_p, _sign_flip_p(d, seed))


def _sign_flip_p(d: np.ndarray, seed: int) -> float:
    """Return the two-sided p of the sign-flip test of the differences ``[n]``.

    It is ours because scipy.stats.permutation_test misses ties: its tolerance is below the rounding of differences
    of accuracies such as 70.1 - 69.4. A tie counts as at least as far from 0.
    """
    n = len(d)
    exact = 2**n <= MAX_OUTCOMES
    if exact:
        signs = np.array(list(itertools.product((1, -1), repeat=n)))
    else:
        signs = np.random.default_rng(seed).integers(2, size=(MAX_OUTCOMES, n)) * 2 - 1
    means = np.abs((signs * d).mean(1))
    extreme = int((means >= abs(d.mean()) - 1e-9 * np.abs(d).max()).sum())
    observed = 0 if exact else 1  # draws need not include the labels that were observed, so they count as one more
    return (extreme + observed) / (len(signs) + observed)


def _check(values: Sequence[float], confidence: float) -> np.ndarray:
    if not 0 < confidence < 1:
        raise RunError(f"confidence = {confidence}: give a number between 0 and 1")
    if len(values) == 0:
        raise RunError("statistics of no values: give one for each seed")
    for i, value in enumerate(values):
        if value is None or not math.isfinite(value):
            raise RunError(f"value {i} of {len(values)} is {value}: give a finite number for each seed")
    return np.asarray(values, dtype=np.float64)
