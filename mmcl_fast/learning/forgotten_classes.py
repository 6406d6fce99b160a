"""Which classes a run forgot most: each class's largest fall from its best accuracy to the one at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FALLEN = 12  # classes that a report names


@dataclass(frozen=True)
class Fall:
    """A class of a task that is right less often at the end than it was.

    Attributes:
        task: number of its task, from 1.
        place: of the class in its task.
        best, now: right answers, of ``tests`` test samples; ``best_after``: the first task after which it was so.
        taken_for: wrong classes (modality, name) that most of its samples are taken for at the end, and how many.
    """

    task: int
    place: int
    best: int
    best_after: int
    now: int
    tests: int
    taken_for: list[tuple[tuple[str, ...], int]]

    @property
    def points(self) -> float:
        """max over i <= l < T of the class's accuracy after task l, less that after task T, in points of per cent."""
        return 100 * (self.best - self.now) / self.tests


def falls(tasks: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]], setting: str) -> list[Fall] | None:
    """The falls above 0 of a finished run, the largest first.

    Args:
        tasks: of summary.json.
        events: of metrics.jsonl.

    Returns:
        None where the run was not evaluated after each task, or kept no right answers by class.
    """
    rows = {
        event["after"]: event
        for event in events
        if event["event"] == "evaluation" and event["setting"] == setting and event.get("by_class")
    }
    last = len(tasks)
    if any(task.get("test_by_class") is None for task in tasks) or any(t not in rows for t in range(1, last + 1)):
        return None
    out = []
    for number, task in enumerate(tasks[:-1], 1):
        for place, tests in enumerate(task["test_by_class"]):
            right = [rows[t]["by_class"][number - 1][place] for t in range(number, last + 1)]
            best, now = max(right[:-1]), right[-1]
            if best > now:
                taken = rows[last].get("taken_for", [])[number - 1][place]
                out.append(
                    Fall(number, place, best, number + right.index(best), now, tests, [(tuple(c), n) for c, n in taken])
                )
    return sorted(out, key=lambda fall: (-fall.points, fall.task, fall.place))
