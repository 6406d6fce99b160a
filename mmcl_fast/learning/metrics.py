"""Metrics of continual learning, in per cent, from R[t][i] = accuracy on task i after task t.

``tasks`` restricts the mean over tasks (numbers from 1); R stays whole.

Row 0 of R is the model before any task (zero-shot); rows and columns of the formulas count from 1. Entries that
were not evaluated are None. A metric that needs one of them is None.
"""

from __future__ import annotations

from collections.abc import Sequence

Matrix = Sequence[Sequence[float | None]]

FORMULAS = {
    "last": "mean over i of R[T,i]",
    "avg": "mean over t of (mean over i<=t of R[t,i])",
    "pooled": "share of all samples of all tasks that are right after task T",
    "forgetting": "mean over i<T of (max over i<=l<T of R[l,i]) - R[T,i] (Chaudhry et al. 2018)",
    "bwt": "mean over i<T of R[T,i] - R[i,i] (Lopez-Paz and Ranzato 2017)",
    "fwt": "mean over i>1 of R[i-1,i] - R[0,i]; a task not yet learned is scored over the classes seen and all to come",
}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _gap(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def last(R: Matrix, tasks: Sequence[int] | None = None) -> float | None:
    return _mean([R[-1][i - 1] for i in _of(R, tasks)])


def avg(R: Matrix, tasks: Sequence[int] | None = None) -> float | None:
    own = _of(R, tasks)
    return _mean([_mean([R[t][i - 1] for i in own if i <= t]) for t in range(min(own), len(R))])


def forgetting(R: Matrix, tasks: Sequence[int] | None = None) -> float | None:
    T = len(R) - 1
    gaps: list[float | None] = []
    for i in _of(R, tasks):
        if i < T:
            column = [r for t in range(i, T) if (r := R[t][i - 1]) is not None]
            gaps.append(_gap(max(column), R[T][i - 1]) if len(column) == T - i else None)
    return _mean(gaps)


def bwt(R: Matrix, tasks: Sequence[int] | None = None) -> float | None:
    T = len(R) - 1
    return _mean([_gap(R[T][i - 1], R[i][i - 1]) for i in _of(R, tasks) if i < T])


def fwt(R: Matrix, tasks: Sequence[int] | None = None) -> float | None:
    return _mean([_gap(R[i - 1][i - 1], R[0][i - 1]) for i in _of(R, tasks) if i > 1])


def _of(R: Matrix, tasks: Sequence[int] | None) -> Sequence[int]:
    return range(1, len(R)) if tasks is None else tasks


def pooled(R: Matrix, counts: Sequence[int], tasks: Sequence[int] | None = None) -> float | None:
    own = _of(R, tasks)
    known = [(r, counts[i - 1]) for i in own if (r := R[-1][i - 1]) is not None]
    return sum(r * n for r, n in known) / sum(n for _, n in known) if len(known) == len(own) else None


def summarize(R: Matrix, counts: Sequence[int], modalities: Sequence[str]) -> dict:
    """All metrics of one setting; under ``per_modality`` the same means over a modality's own tasks, R whole.

    Args:
        R: ``T + 1`` rows of T entries.
        counts: test samples of each task.
        modalities: modality of each task.
    """

    def over(tasks: Sequence[int] | None) -> dict[str, float | None]:
        return {
            "last": last(R, tasks),
            "avg": avg(R, tasks),
            "pooled": pooled(R, counts, tasks),
            "forgetting": forgetting(R, tasks),
            "bwt": bwt(R, tasks),
            "fwt": fwt(R, tasks),
        }

    own = {m: [i + 1 for i, other in enumerate(modalities) if other == m] for m in dict.fromkeys(modalities)}
    return {**over(None), "per_modality": {m: over(tasks) for m, tasks in own.items()}}
