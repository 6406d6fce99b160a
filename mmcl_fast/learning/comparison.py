"""Two versions' answers to the same test samples: what rose, what fell, and which answers changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from mmcl_fast.errors import RunError
from mmcl_fast.learning.predictions import Predictions
from mmcl_fast.learning.sample_bootstrap import SeedSamples, holm, sample_intervals
from mmcl_fast.streams.sample import ClassId

DRAWS = 4000
LEVEL = 0.05  # of a fall that is clear of chance, after Holm's correction inside its scope
SCOPES = ("all", "modality", "task", "class")


@dataclass(frozen=True)
class Difference:
    """The accuracy of two versions on the same samples.

    Attributes:
        scope: ``all``, ``modality``, ``task`` or ``class``.
        name: of the modality, task or class.
        samples: number of test samples.
        before: accuracy in %; over several tasks the mean over tasks.
        after: likewise.
        low: lower end of the 95 % interval of ``after - before``, paired by sample, in points.
        high: its upper end.
        p: two-sided p of no difference, with Holm's correction for the rows of the scope.
    """

    scope: str
    name: str
    samples: int
    before: float
    after: float
    low: float
    high: float
    p: float

    @property
    def fall(self) -> float:
        """Return by how many points the accuracy fell; negative where it rose."""
        return self.before - self.after


@dataclass(frozen=True)
class ChangedAnswer:
    """A test sample to which two versions give different answers.

    Attributes:
        key: identity of the sample.
        task: name of its task.
        label: its true class, such as ``image/dog``.
        before: the class that the first version predicts.
        after: the class that the second one predicts.
    """

    key: str
    task: str
    label: str
    before: str
    after: str

    @property
    def lost(self) -> bool:
        """Return whether a right answer became a wrong one."""
        return self.before == self.label


@dataclass(frozen=True)
class Comparison:
    """Two versions on the test samples that both know.

    Attributes:
        setting: such as ``agnostic``.
        differences: over all samples, then of each modality, task and class.
        changed: the samples whose answer changed.
    """

    setting: str
    differences: list[Difference]
    changed: list[ChangedAnswer]

    def values(self) -> dict[str, Any]:
        """Return the JSON values."""
        return asdict(self)

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Comparison:
        """Return a comparison from the JSON values that ``values`` gave."""
        return cls(
            values["setting"],
            [Difference(**row) for row in values["differences"]],
            [ChangedAnswer(**row) for row in values["changed"]],
        )

    def falls_over(self, limit: float) -> list[Difference]:
        """Return the falls of more than ``limit`` points that are clear of chance, the largest first."""
        found = [d for d in self.differences if d.fall > limit and d.p < LEVEL]
        return sorted(found, key=lambda d: -d.fall)


def compare_predictions(
    before: Predictions, after: Predictions, tasks: Sequence[tuple[str, str]], setting: str | None = None
) -> Comparison:
    """Compare two versions on the test samples that both predict, paired by the samples' keys.

    Args:
        before: of the first version.
        after: of the second version.
        tasks: name and modality of each of the second version's tasks.
        setting: the setting to compare; None: the first one that both have.

    Raises:
        RunError: no setting, or no sample, is in both.
    """
    common = [name for name in before.predicted if name in after.predicted and setting in (None, name)]
    # A sample that tests several tasks counts once, in the first of them.
    position = after.first_positions()
    pairs = [(i, position[key]) for key, i in before.first_positions().items() if key in position]
    if not common or not pairs:
        raise RunError("the two versions have no setting, or no test sample, in common; compare other versions")
    setting = common[0]
    old, new = np.array(pairs).T
    samples = _PairedSamples(
        [tasks[number - 1] for number in after.tasks[new]],
        [after.classes[k] for k in after.labels[new]],
        [before.classes[k] for k in before.predicted[setting][old]],
        [after.classes[k] for k in after.predicted[setting][new]],
        SeedSamples([after.groups[j] or after.keys[j] for j in new], after.tasks[new]),
    )
    changed = [
        ChangedAnswer(after.keys[j], task[0], _class_name(label), _class_name(was), _class_name(now))
        for j, task, label, was, now in zip(new, samples.tasks, samples.labels, samples.before, samples.after)
        if was != now
    ]
    return Comparison(setting, [row for scope in SCOPES for row in _differences(samples, scope)], changed)


@dataclass(frozen=True)
class _PairedSamples:
    """n samples: the (name, modality) of their tasks, true classes, classes predicted before and after, and groups."""

    tasks: list[tuple[str, str]]
    labels: list[ClassId]
    before: list[ClassId]
    after: list[ClassId]
    groups: SeedSamples

    def rows(self, scope: str) -> dict[str, list[int]]:
        """Return the rows of a scope: name -> positions of its samples."""
        out: dict[str, list[int]] = {}
        for i, ((task, modality), label) in enumerate(zip(self.tasks, self.labels)):
            name = {"all": "all", "modality": modality, "task": task, "class": _class_name(label)}[scope]
            out.setdefault(name, []).append(i)
        return out


def _differences(samples: _PairedSamples, scope: str) -> list[Difference]:
    right = [
        100.0 * np.array([found == label for found, label in zip(answers, samples.labels)])
        for answers in (samples.before, samples.after)
    ]
    out = []
    for name, chosen in samples.rows(scope).items():
        groups = SeedSamples([samples.groups.groups[i] for i in chosen], samples.groups.tasks[chosen])
        was, now = right[0][chosen], right[1][chosen]
        before, after, difference = sample_intervals([groups], [np.stack([was, now, now - was])], draws=DRAWS)
        p = difference.p if (was != now).any() else 1.0
        low, high = max(difference.low, -100.0), min(difference.high, 100.0)  # accuracies differ by no more
        out.append(Difference(scope, name, len(chosen), before.mean, after.mean, low, high, p))
    return [replace(row, p=float(p or 0.0)) for row, p in zip(out, holm([row.p for row in out]))]


def _class_name(key: ClassId) -> str:
    return f"{key[0]}/{key[1]}"
