"""Evaluation of a learner on tasks: per instance, modality given or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmcl_fast import distributed
from mmcl_fast.errors import StreamError
from mmcl_fast.streams.sample import ClassId, Task

if TYPE_CHECKING:
    from mmcl_fast.learning.learner import Learner

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


def evaluate(learner: Learner, tasks: Sequence[Task], setting: str, split: str, upcoming: Sequence[Task]) -> Evaluation:
    """See ``Learner.evaluate``."""
    wanted = settings_of(setting)
    if not tasks:
        raise StreamError("evaluate: no task given; learn one first")
    known = len(learner.classes)
    classes = learner.classes
    for task in [*tasks, *upcoming]:
        classes = learner.classes_with(task, classes)
    result = Evaluation([t.name for t in tasks], [], [t.class_ids for t in tasks])
    taken: dict[str, list[Counter[tuple[ClassId, ClassId]]]] = {s: [] for s in wanted}
    learned = {t["name"] for t in learner.tasks}
    own: dict[str, set[int]] = {task.modality: set() for task in tasks}  # a modality's classes learned
    for t in learner.tasks:
        own.setdefault(t["modality"], set()).update(classes.place[tuple(key)] for key in t["class_ids"])
    columns = {m: torch.tensor(sorted(ids), dtype=torch.int64, device=learner.encoder.device) for m, ids in own.items()}
    for task in tasks:
        samples = task.split(split)
        if not samples:
            raise StreamError(f"task {task.name}: no sample in its {split} split; add files or choose another split")
        result.counts.append(len(samples))
        samples = distributed.shard(samples)
        tokens = learner.own_tokens(samples, f"{task.name}: decode and trunk", keep=True)
        if tokens is None:
            for name in wanted:
                taken[name].append(Counter())
            continue
        keys = dict(zip(task.classes, task.class_ids))
        needed = {s != "agnostic" for s in wanted} if learner.method.routes else {True}
        with distributed.single_process():
            scores = {given: learner.method.scores(tokens, task.modality, classes, given=given) for given in needed}
        new = sorted({classes.place[key] for key in task.class_ids} - own[task.modality])
        for name in wanted:
            masked = (
                torch.cat([columns[task.modality], columns[task.modality].new_tensor(new)])
                if name == "given_masked"
                else None
            )
            competing = scores[name != "agnostic" or not learner.method.routes]
            guesses = best(competing[:, : known if task.name in learned else len(classes)], masked).tolist()
            taken[name].append(Counter((keys[s.label], classes.keys[k]) for s, k in zip(samples, guesses)))
    told = distributed.all_gather_object(taken)
    result.taken = {name: [sum(parts, Counter()) for parts in zip(*(t[name] for t in told))] for name in wanted}
    return result


def best(scores: Tensor, columns: Tensor | None = None) -> Tensor:
    """Of scores ``[n, C]`` each row's best column, ``[n]`` int64; columns ``[k]``: only these compete, None: all."""
    if columns is None:
        return scores.argmax(1)
    columns = columns.to(scores.device)
    return columns[scores[:, columns].argmax(1)]
