"""Intervals over seeds and test samples together, by a bootstrap.

Seeds and test samples are crossed: every seed is tested on the same files. So a draw weights each file once, for all
seeds (the pigeonhole bootstrap, Owen 2007, arXiv 0712.1111). With a weight for each seed, one hard file would count
as many. Bouthillier et al. 2021 (arXiv 2103.03098) say why seeds and data belong into one interval.

The statistic of a seed is the mean over its tasks of the mean over a task's samples, which is the metric ``last``.

- Samples: a draw gives every group of samples a Gamma weight of mean 1, and computes the statistic with these weights
  (the Bayesian bootstrap, Rubin 1981). A group holds the samples of one recording or picture. Weights are positive, so
  that no task is empty. Each task divides by its own weights, so that it keeps its share of the mean.
- Seeds: they need no draws, because the variance of the mean of resampled values has a closed form.
- Both: V = V_seeds + V_samples - V_both. V_seeds and V_samples each contain the interaction of seeds and samples, which
  counts once. A bootstrap that resamples both counts it three times (Owen 2007).

The interval is the mean +- t sqrt(V). Here t is Student's for the number of seeds and Student's for the number of
groups, averaged by the variance of each (Cochran and Cox 1950). Percentiles of draws are not used, because three to
five seeds are too few for them. ``benchmarks/interval_coverage.py`` measures how often each interval holds the truth.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from mmcl_fast.errors import RunError
from mmcl_fast.learning.statistics import Interval

DRAWS = 10_000
SMALLEST_SHAPE = 0.05  # of a Gamma weight; smaller ones underflow
MIN_EXPONENT = -1000  # of a p value
WEIGHTS_AT_ONCE = 1 << 22  # weights in memory together


@dataclass(frozen=True)
class SeedSamples:
    """The n test samples of one seed.

    Attributes:
        groups: for each sample the name of its group, which is the same in all seeds.
        tasks: ``[n]`` int64, the task of each sample in this seed.
    """

    groups: Sequence[str]
    tasks: np.ndarray


@dataclass(frozen=True)
class SampleInterval(Interval):
    """The mean over n seeds, and its interval over seeds and test samples.

    Attributes:
        samples: number of test samples of a seed, the largest of all seeds.
        groups: number of groups of samples.
        seed_share: the share of the variance that comes from the seeds, 0 to 1. The rest comes from the test samples.
        p: two-sided p of a mean of 0. At least 2^(1 - groups), the smallest p of a sign-flip test of so many groups.
    """

    low: float
    high: float
    samples: int
    groups: int
    seed_share: float
    p: float


def sample_intervals(
    seeds: Sequence[SeedSamples],
    values: Sequence[np.ndarray],
    *,
    confidence: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[SampleInterval]:
    """Return the interval of each row's mean over seeds, tasks and test samples.

    With one seed the interval is over test samples alone. Where all values are equal, its width is 0: no bootstrap can
    say how rare other values are.

    Args:
        seeds: the test samples of each of S seeds.
        values: for each seed ``[rows, n]`` float64. A row is a method's right answers, 100 or 0, or the difference of
            two methods' answers: so differences are paired by sample.
        confidence: level of the intervals.
        draws: number of draws.
        seed: fixes the draws.

    Raises:
        RunError: no seed, a seed without samples, or values of other shapes.
    """
    from scipy.special import stdtrit  # imported late, as in ``statistics``

    if not seeds or any(not len(found.groups) for found in seeds):
        raise RunError("sample_intervals: give at least one seed, and samples for each seed")
    if any(v.shape != (len(values[0]), len(found.groups)) for found, v in zip(seeds, values, strict=True)):
        raise RunError("sample_intervals: give values [rows, n] for the n samples of each seed, the same rows for all")
    names = _resampled_groups(seeds)
    columns = {name: column for column, name in enumerate(dict.fromkeys(name for found in names for name in found))}
    parts, shapes = [], np.ones(len(columns))
    for found, own_names, own_values in zip(seeds, names, values):
        ids = np.array([columns[name] for name in own_names])
        parts.append(_sums_by_task(found.tasks, ids, own_values))
        for task_ids, _ in parts[-1]:
            # Weights of this shape make the variance of a mean of so many equal groups unbiased.
            shapes[task_ids] = np.minimum(shapes[task_ids], max(1 - 2 / len(task_ids), SMALLEST_SHAPE))

    S = len(seeds)
    means = _seed_means(parts, np.ones((len(columns), 1)))[:, :, 0]  # [S, rows]
    over_seeds = means.var(0, ddof=1) / S if S > 1 else np.zeros(means.shape[1])
    over_samples, with_interaction = _draw_variances(parts, means, shapes, draws, seed)
    both = np.maximum(with_interaction - over_seeds, 0)
    variance = np.maximum(over_seeds + over_samples - both, np.maximum(over_seeds, over_samples))

    df_seeds, df_samples = max(S - 1, 1), max(len(columns) - max(len(part) for part in parts), 1)
    share = over_seeds / np.where(variance > 0, variance, 1)
    error = np.sqrt(variance)

    def quantile(tail: float, row: int) -> float:
        """Return how many standard errors the mean is above the truth, or more, with probability ``tail``."""
        return float(-share[row] * stdtrit(df_seeds, tail) - (1 - share[row]) * stdtrit(df_samples, tail))

    out = []
    for row, mean in enumerate(means.mean(0).tolist()):
        half = quantile((1 - confidence) / 2, row) * error[row]
        away = abs(mean) / error[row] if error[row] else math.inf if mean else 0.0
        smallest = 2.0 ** max(1 - len(columns), MIN_EXPONENT)
        out.append(
            SampleInterval(
                n=S,
                mean=mean,
                sd=float(means[:, row].std(ddof=1)) if S > 1 else None,
                low=float(mean - half),
                high=float(mean + half),
                samples=max(len(found.groups) for found in seeds),
                groups=len(columns),
                seed_share=float(share[row]),
                p=_find_p(partial(quantile, row=row), away, smallest),
            )
        )
    return out


def _find_p(quantile: Callable[[float], float], away: float, smallest: float) -> float:
    """Return the two-sided p, from ``smallest`` to 1, whose quantile is ``away``. The quantile falls with its tail."""
    if quantile(smallest / 2) <= away:
        return smallest
    low, high = math.log(smallest), 0.0
    for _ in range(60):  # bisection of log p
        middle = (low + high) / 2
        low, high = (middle, high) if quantile(math.exp(middle) / 2) > away else (low, middle)
    return math.exp(high)


def _resampled_groups(seeds: Sequence[SeedSamples]) -> list[list[str]]:
    """Return the group of each sample of each seed; samples of a group that is all of a task are groups of one.

    A task of a single group would seem to have no variance at all.
    """
    whole: set[str] = set()
    for found in seeds:
        groups_of: dict[int, set[str]] = {}
        for group, task in zip(found.groups, found.tasks.tolist()):
            groups_of.setdefault(task, set()).add(group)
        whole |= {next(iter(groups)) for groups in groups_of.values() if len(groups) == 1}
    out = []
    for found in seeds:
        seen: Counter[str] = Counter()
        names = []
        for group in found.groups:
            seen[group] += 1
            names.append(f"{group}\n{seen[group]}" if group in whole else group)
        out.append(names)
    return out


def _sums_by_task(tasks: np.ndarray, ids: np.ndarray, values: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return for each task its g groups' ids ``[g]``, and ``[1 + rows, g]``: their sizes and sums of values."""
    out = []
    for task in np.unique(tasks):
        chosen = np.flatnonzero(tasks == task)
        groups, position = np.unique(ids[chosen], return_inverse=True)
        sums = np.zeros((1 + len(values), len(groups)))
        np.add.at(sums.T, position, np.vstack([np.ones(len(chosen)), values[:, chosen]]).T)
        out.append((groups, sums))
    return out


def _seed_means(parts: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]], weights: np.ndarray) -> np.ndarray:
    """Return the mean over tasks of the weighted mean over samples, ``[S, rows, draws]``.

    Args:
        parts: for each seed the sums of its tasks.
        weights: ``[groups, draws]``.
    """
    out = []
    for part in parts:
        total = np.zeros(())
        for groups, sums in part:
            weighted = sums @ weights[groups]
            total = total + weighted[1:] / weighted[0]
        out.append(total / len(part))
    return np.stack(out)


def _draw_variances(
    parts: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]],
    means: np.ndarray,
    shapes: np.ndarray,
    draws: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return two variances ``[rows]``: of the mean over seeds over draws, and of the mean of resampled seeds in a draw.

    ``means`` ``[S, rows]`` are the statistics without weights. Sums are taken around them, so that they are accurate.
    """
    rng = np.random.default_rng(seed)
    first, second, within = (np.zeros(means.shape[1]) for _ in range(3))
    at_once = max(1, WEIGHTS_AT_ONCE // len(shapes))
    for start in range(0, draws, at_once):
        size = min(at_once, draws - start)
        weights = rng.gamma(shapes[:, None], 1 / shapes[:, None], (len(shapes), size))
        drawn = _seed_means(parts, weights)  # [S, rows, size]
        away = drawn.mean(0) - means.mean(0)[:, None]
        first += away.sum(1)
        second += (away**2).sum(1)
        if len(means) > 1:
            within += drawn.var(0, ddof=1).sum(1) / len(means)
    return (second - first**2 / draws) / (draws - 1), within / draws


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p values corrected for their number: Holm's step-down method (1979), for any dependence between them.

    The k-th smallest of m is multiplied by m - k + 1 and is no smaller than those before it. None stays None and does
    not count.

    Example::

        holm([0.01, 0.04, 0.03])  # 0.03, 0.06, 0.06
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    out: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        out[i] = largest
    return out
