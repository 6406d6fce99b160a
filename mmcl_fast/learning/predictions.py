"""The predictions of a model for test samples. This module needs no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mmcl_fast.learning.evaluation import Evaluation

DECIMALS = 4  # of a probability
UNKNOWN_DECIMALS = 6  # of an unknown score, so that rounding moves none over a rate in whole per cent


@dataclass(frozen=True)
class ClassResult:
    """The test samples of one class.

    Attributes:
        samples: their number.
        accuracy: right answers in %.
        confidence: mean probability of their predicted classes in %; None in runs of older versions.
        taken_for: the classes (modality, name) that they are taken for, with their counts, most first.
    """

    samples: int
    accuracy: float
    confidence: float | None
    taken_for: list[tuple[tuple[str, str], int]]


@dataclass(frozen=True)
class Predictions:
    """The n test samples of a run, in the order of its tasks, and the class predicted for each after the last task.

    A sample stands here twice if it tests two tasks, because one brought more training samples of its class.

    Attributes:
        classes: C classes (modality, name).
        keys: n identities of samples in the stream.
        groups: for each sample the recording or picture that it was made from; empty: the sample itself.
        tasks: ``[n]`` int64, the number of its task, from 1.
        labels: ``[n]`` int64, its true class, a position in ``classes``.
        predicted: setting -> ``[n]`` int64, its predicted class, likewise.
        confidence: setting -> ``[n]`` float64, the probability of its predicted class; empty in runs of older versions.
        unknown: ``[n]`` float64, the unknown score of each sample, NaN where there is none; None in runs of older
            versions.
    """

    classes: list[tuple[str, str]]
    keys: list[str]
    groups: list[str]
    tasks: np.ndarray
    labels: np.ndarray
    predicted: dict[str, np.ndarray]
    confidence: dict[str, np.ndarray] = field(default_factory=dict)
    unknown: np.ndarray | None = None

    def by_class(self, setting: str) -> dict[tuple[str, str], ClassResult]:
        """Return the results of each class that has test samples, in the order of the samples."""
        predicted, confidence = self.predicted[setting], self.confidence.get(setting)
        out = {}
        # A sample that tests two tasks counts once for its class.
        once = np.zeros(len(self.keys), bool)
        once[list(self.first_positions().values())] = True
        for k in dict.fromkeys(self.labels.tolist()):
            chosen = (self.labels == k) & once
            wrong = Counter(predicted[chosen & (predicted != k)].tolist()).most_common()
            out[self.classes[k]] = ClassResult(
                int(chosen.sum()),
                100.0 * float((predicted[chosen] == k).mean()),
                None if confidence is None else 100.0 * float(confidence[chosen].mean()),
                [(self.classes[c], count) for c, count in wrong],
            )
        return out

    def first_positions(self) -> dict[str, int]:
        """Return the position of each key; of a sample that tests several tasks the first one."""
        out: dict[str, int] = {}
        for position, key in enumerate(self.keys):
            out.setdefault(key, position)
        return out

    def renamed(self, aliases: Mapping[tuple[str, str], tuple[str, str]]) -> Predictions:
        """Return these predictions with classes by their names of today."""
        return replace(self, classes=[aliases.get(key, key) for key in self.classes])

    def select(self, keys: Collection[str]) -> Predictions:
        """Return the predictions of the samples with these keys."""
        chosen = np.array([key in keys for key in self.keys], bool)
        return replace(
            self,
            keys=[key for key, kept in zip(self.keys, chosen) if kept],
            groups=[group for group, kept in zip(self.groups, chosen) if kept],
            tasks=self.tasks[chosen],
            labels=self.labels[chosen],
            predicted={name: ids[chosen] for name, ids in self.predicted.items()},
            confidence={name: shares[chosen] for name, shares in self.confidence.items()},
            unknown=None if self.unknown is None else self.unknown[chosen],
        )

    def correct(self, setting: str) -> np.ndarray:
        """Return whether each sample's class is predicted, ``[n]`` bool."""
        return self.predicted[setting] == self.labels


def predictions_of(result: Evaluation) -> Predictions:
    """Return the predictions of an evaluation of all tasks."""
    samples = [sample for some in result.samples for sample in some]
    used = [*result.labels, *(found for tasks in result.predicted.values() for found in tasks)]
    classes = list(dict.fromkeys(key for some in used for key in some))
    ids = {key: position for position, key in enumerate(classes)}

    def positions(tasks: Sequence[Sequence[tuple[str, str]]]) -> np.ndarray:
        return np.array([ids[key] for some in tasks for key in some], np.int64)

    return Predictions(
        classes,
        [sample.key for sample in samples],
        [sample.group for sample in samples],
        np.array([number for number, some in enumerate(result.samples, 1) for _ in some], np.int64),
        positions(result.labels),
        {setting: positions(tasks) for setting, tasks in result.predicted.items()},
        {setting: np.concatenate(tasks).round(DECIMALS) for setting, tasks in result.confidence.items()},
        np.concatenate(result.unknown).round(UNKNOWN_DECIMALS) if result.unknown else None,
    )
