"""Evaluation of a learner on tasks: per instance, modality given or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from mmcl_fast.streams.sample import ClassId

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
        classes: the classes of each task.
        taken: setting -> for each task, of its test samples: (class, class it was taken for) -> how many; the settings
            are explained in ``ABOUT``.
    """

    names: list[str]
    counts: list[int]
    classes: list[Sequence[ClassId]] = field(default_factory=list)
    taken: dict[str, list[Counter[tuple[ClassId, ClassId]]]] = field(default_factory=dict)

    @property
    def correct(self) -> dict[str, list[int]]:
        """Setting -> right answers of each task."""
        return {name: [sum(right) for right in self.by_class(name)] for name in self.taken}

    def by_class(self, setting: str) -> list[list[int]]:
        """Right answers of each class of each task."""
        return [[found[c, c] for c in own] for own, found in zip(self.classes, self.taken[setting])]

    def taken_for(self, setting: str, most: int) -> list[list[list[tuple[ClassId, int]]]]:
        """For each class of each task the wrong classes that most of its samples were taken for, ``most`` at most, and
        how many."""
        out = []
        for own, found in zip(self.classes, self.taken[setting]):
            wrong: dict[ClassId, Counter[ClassId]] = {c: Counter() for c in own}
            for (true, guess), count in found.items():
                if guess != true:
                    wrong[true][guess] = count
            out.append([sorted(wrong[c].items(), key=lambda pair: (-pair[1], pair[0]))[:most] for c in own])
        return out

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


def best(scores: Tensor, columns: Tensor | None = None) -> Tensor:
    """Of scores ``[n, C]`` each row's best column, ``[n]`` int64; columns ``[k]``: only these compete, None: all."""
    if columns is None:
        return scores.argmax(1)
    columns = columns.to(scores.device)
    return columns[scores[:, columns].argmax(1)]
