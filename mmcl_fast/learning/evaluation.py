"""Evaluation of a learner on tasks: per instance, modality given or not."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

SETTINGS = ("agnostic", "given", "given_masked")
ABOUT = {
    "agnostic": "the model is not told the modality; all classes compete",
    "given": "the modality chooses prompts and gates; all classes compete",
    "given_masked": "as given, and only the given modality's classes compete",
}


@dataclass
class Evaluation:
    """Right answers per task.

    Attributes:
        names: the tasks' names.
        counts: test samples of each task.
        correct: setting -> right answers of each task; the settings are explained in ``ABOUT``.
    """

    names: list[str]
    counts: list[int]
    correct: dict[str, list[int]] = field(default_factory=dict)

    def accuracy(self, setting: str) -> list[float]:
        """Per cent for each task."""
        return [100.0 * right / count for right, count in zip(self.correct[setting], self.counts)]

    def mean(self, setting: str) -> float:
        """Mean over tasks, per cent."""
        values = self.accuracy(setting)
        return sum(values) / len(values)

    def table(self) -> str:
        """Plain text: a line a task, a column a setting, the mean last."""
        settings = list(self.correct)
        width = max(len(n) for n in [*self.names, "mean"])
        lines = [" " * width + "".join(f"{s:>14}" for s in settings)]
        columns = {s: self.accuracy(s) for s in settings}
        for i, name in enumerate(self.names):
            lines.append(f"{name:<{width}}" + "".join(f"{columns[s][i]:14.1f}" for s in settings))
        lines.append(f"{'mean':<{width}}" + "".join(f"{self.mean(s):14.1f}" for s in settings))
        return "\n".join(lines)


def settings_of(setting: str) -> tuple[str, ...]:
    if setting == "both":
        return SETTINGS
    if setting == "given":
        return ("given", "given_masked")
    if setting == "agnostic":
        return ("agnostic",)
    raise ValueError(f"setting = {setting!r}: use agnostic, given or both")


def right_answers(scores: Tensor, labels: Tensor, columns: Tensor | None = None) -> int:
    """scores ``[n, C]``, labels ``[n]``; columns ``[k]``: only these compete, None: all."""
    if columns is None:
        best = scores.argmax(1)
    else:
        columns = columns.to(scores.device)
        best = columns[scores[:, columns].argmax(1)]
    return int((best == labels.to(best.device)).sum())
