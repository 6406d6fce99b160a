"""Metrics of continual learning, in per cent, from the accuracy matrix R.

R has T + 1 rows of T entries for T tasks. ``R[t][i - 1]`` is the accuracy on task i after task t, in per cent; tasks
count from 1. Row 0 is the model before any task (zero-shot). An entry that was not evaluated is None, and a metric
that needs it is None. So is a metric without a task to average over, such as the forgetting of a single task.

Each metric takes ``tasks``, the numbers of the tasks to average over; None: all. ``FORMULAS`` has the definitions.

Example::

    R = [[None, None], [90.0, None], [80.0, 70.0]]
    last(R)  # 75.0
    forgetting(R)  # 10.0
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


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _chosen(R: Matrix, tasks: Sequence[int] | None) -> Sequence[int]:
    return range(1, len(R)) if tasks is None else tasks


def last(R: Matrix, tasks: Sequence[int] | None = None) -> float | None:
    """Return the mean accuracy after the last task."""
    return _mean([R[-1][i - 1] for i in _chosen(R, tasks)])


def avg(R: Matrix, tasks: Sequence[int] | None = None) -> float | None:
    """Return the mean over t of the mean accuracy on the tasks learned up to t (average incremental accuracy).

    t runs from the first of ``tasks`` to the last row of R.
    """
    chosen = _chosen(R, tasks)
    return _mean([_mean([R[t][i - 1] for i in chosen if i <= t]) for t in range(min(chosen), len(R))])


def forgetting(R: Matrix, tasks: Sequence[int] | None = None) -> float | None:
    """Return the mean fall from a task's best accuracy before the last task to its accuracy after it.

    The last task is left out. The value is negative where tasks improve (Chaudhry et al. 2018).
    """
    T = len(R) - 1
    falls: list[float | None] = []
    for i in _chosen(R, tasks):
        if i < T:
            column = [r for t in range(i, T) if (r := R[t][i - 1]) is not None]
            falls.append(_difference(max(column), R[T][i - 1]) if len(column) == T - i else None)
    return _mean(falls)


def bwt(R: Matrix, tasks: Sequence[int] | None = None) -> float | None:
    """Return backward transfer: the mean change of a task's accuracy since it was learned (GEM, 2017).

    The last task is left out.
    """
    T = len(R) - 1
    return _mean([_difference(R[T][i - 1], R[i][i - 1]) for i in _chosen(R, tasks) if i < T])


def fwt(R: Matrix, tasks: Sequence[int] | None = None) -> float | None:
    """Return forward transfer: the mean gain over zero-shot on a task just before it is learned (GEM, 2017).

    The first task is left out.
    """
    return _mean([_difference(R[i - 1][i - 1], R[0][i - 1]) for i in _chosen(R, tasks) if i > 1])


def pooled(R: Matrix, counts: Sequence[int], tasks: Sequence[int] | None = None) -> float | None:
    """Return the accuracy over all samples, not over tasks, after the last task.

    Args:
        R: T + 1 rows of T accuracies.
        counts: number of test samples of each of the T tasks.
        tasks: numbers of the tasks that count; None: all.
    """
    chosen = _chosen(R, tasks)
    known = [(r, counts[i - 1]) for i in chosen if (r := R[-1][i - 1]) is not None]
    return sum(r * n for r, n in known) / sum(n for _, n in known) if len(known) == len(chosen) else None


def summarize(R: Matrix, counts: Sequence[int], modalities: Sequence[str]) -> dict:
    """Return all metrics by name, and under ``per_modality`` the same metrics over each modality's tasks.

    Args:
        R: T + 1 rows of T accuracies.
        counts: number of test samples of each task.
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

    tasks_of = {m: [i + 1 for i, other in enumerate(modalities) if other == m] for m in dict.fromkeys(modalities)}
    return {**over(None), "per_modality": {m: over(tasks) for m, tasks in tasks_of.items()}}
