"""The classes that a run forgot most: the largest falls from a class's best accuracy to its final one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_LISTED = 12  # classes that a report lists


@dataclass(frozen=True)
class ForgottenClass:
    """A class whose final accuracy is below its best one.

    Attributes:
        task: number of the class's task, from 1.
        class_index: position of the class in its task, from 0.
        best_correct: most right answers after any task before the last.
        best_after: number of the first task after which there were that many.
        final_correct: right answers after the last task.
        test_samples: number of test samples of the class.
        confused_with: the classes (modality, name) predicted most often instead at the end, with their counts.
    """

    task: int
    class_index: int
    best_correct: int
    best_after: int
    final_correct: int
    test_samples: int
    confused_with: list[tuple[tuple[str, ...], int]]

    @property
    def forgetting(self) -> float:
        """Return max over i <= l < T of the class's accuracy after task l, minus its accuracy after task T, in %."""
        return 100 * (self.best_correct - self.final_correct) / self.test_samples


def find_forgotten_classes(
    tasks: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]], setting: str
) -> list[ForgottenClass] | None:
    """Find the classes of a finished run that are below their best accuracy, the most forgotten first.

    Args:
        tasks: ``tasks`` of summary.json.
        events: the events of metrics.jsonl.
        setting: the setting of evaluation, such as ``agnostic``.

    Returns:
        None where the run was not evaluated after each task, or did not record right answers by class.
    """
    evaluations = {
        event["after"]: event
        for event in events
        if event["event"] == "evaluation" and event["setting"] == setting and event.get("by_class")
    }
    last = len(tasks)
    evaluated = all(t in evaluations for t in range(1, last + 1))
    if not evaluated or any(task.get("test_by_class") is None for task in tasks):
        return None
    out = []
    for number, task in enumerate(tasks[:-1], 1):
        for index, test_samples in enumerate(task["test_by_class"]):
            correct = [evaluations[t]["by_class"][number - 1][index] for t in range(number, last + 1)]
            best, final = max(correct[:-1]), correct[-1]
            if best > final:
                wrong = evaluations[last].get("taken_for", [])[number - 1][index]
                confused_with = [(tuple(c), n) for c, n in wrong]
                best_after = number + correct.index(best)
                out.append(ForgottenClass(number, index, best, best_after, final, test_samples, confused_with))
    return sorted(out, key=lambda fall: (-fall.forgetting, fall.task, fall.class_index))
