"""Metrics of continual learning, in per cent, from R[t][i] = accuracy on task i after task t.

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
    return None if not values or any(v is None for v in values) else sum(values) / len(values)


def _gap(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def last(R: Matrix) -> float | None:
    return _mean(R[-1])


def avg(R: Matrix) -> float | None:
    return _mean([_mean(row[:t]) for t, row in enumerate(R) if t > 0])


def forgetting(R: Matrix) -> float | None:
    T = len(R) - 1
    gaps = []
    for i in range(1, T):
        column = [R[t][i - 1] for t in range(i, T)]
        gaps.append(None if None in column else _gap(max(column), R[T][i - 1]))
    return _mean(gaps)


def bwt(R: Matrix) -> float | None:
    T = len(R) - 1
    return _mean([_gap(R[T][i - 1], R[i][i - 1]) for i in range(1, T)])


def fwt(R: Matrix) -> float | None:
    T = len(R) - 1
    return _mean([_gap(R[i - 1][i - 1], R[0][i - 1]) for i in range(2, T + 1)])


def pooled(R: Matrix, counts: Sequence[int]) -> float | None:
    if any(v is None for v in R[-1]):
        return None
    return sum(r * n for r, n in zip(R[-1], counts)) / sum(counts)


def restrict(R: Matrix, tasks: Sequence[int]) -> list[list[float | None]]:
    """The matrix of some tasks alone (numbers from 0): rows after each of them, row 0 kept."""
    return [[R[0][i] for i in tasks], *([R[t + 1][i] for i in tasks] for t in tasks)]


def summarize(R: Matrix, counts: Sequence[int], modalities: Sequence[str]) -> dict:
    """All metrics of one setting, and each of them over every modality's own tasks.

    Args:
        R: ``T + 1`` rows of T entries.
        counts: test samples of each task.
        modalities: modality of each task.
    """
    def one(matrix: Matrix, n: Sequence[int]) -> dict[str, float | None]:
        return {"last": last(matrix), "avg": avg(matrix), "pooled": pooled(matrix, n),
                "forgetting": forgetting(matrix), "bwt": bwt(matrix), "fwt": fwt(matrix)}

    out: dict = one(R, counts)
    out["per_modality"] = {}
    for modality in dict.fromkeys(modalities):
        tasks = [i for i, m in enumerate(modalities) if m == modality]
        matrix = restrict(R, tasks)
        matrix[-1] = [R[-1][i] for i in tasks]  # what is left of them at the very end
        out["per_modality"][modality] = one(matrix, [counts[i] for i in tasks])
    return out
