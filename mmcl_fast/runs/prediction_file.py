"""The file of a run that says what was predicted for each test sample at the end: predictions.json.gz.

Intervals over test samples are computed from it, and anybody can count its right answers. It needs no torch.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmcl_fast import atomic_files
from mmcl_fast.errors import RunError

if TYPE_CHECKING:
    from mmcl_fast.learning.evaluation import Evaluation

PREDICTIONS_FILE = "predictions.json.gz"
DECIMALS = 4  # of a probability


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
    """

    classes: list[tuple[str, str]]
    keys: list[str]
    groups: list[str]
    tasks: np.ndarray
    labels: np.ndarray
    predicted: dict[str, np.ndarray]
    confidence: dict[str, np.ndarray] = field(default_factory=dict)

    def by_class(self, setting: str) -> dict[tuple[str, str], ClassResult]:
        """Return the results of each class that has test samples, in the order of the samples."""
        predicted, confidence = self.predicted[setting], self.confidence.get(setting)
        out = {}
        # A sample that tests two tasks counts once for its class.
        once = np.zeros(len(self.keys), bool)
        once[list({key: i for i, key in reversed(list(enumerate(self.keys)))}.values())] = True
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

    def correct(self, setting: str) -> np.ndarray:
        """Return whether each sample's class is predicted, ``[n]`` bool."""
        return self.predicted[setting] == self.labels


def write_predictions(file: Path, result: Evaluation) -> None:
    """Write an evaluation of all tasks. The same evaluation gives the same bytes.

    Raises:
        RunError: the file cannot be written.
    """
    samples = [sample for some in result.samples for sample in some]
    used = [*result.labels, *(found for tasks in result.predicted.values() for found in tasks)]
    classes = list(dict.fromkeys(key for some in used for key in some))
    ids = {key: position for position, key in enumerate(classes)}

    def positions(tasks: Sequence[Sequence[tuple[str, str]]]) -> list[int]:
        return [ids[key] for some in tasks for key in some]

    values = {
        "classes": classes,
        "keys": [sample.key for sample in samples],
        "groups": [sample.group for sample in samples],
        "tasks": [number for number, some in enumerate(result.samples, 1) for _ in some],
        "labels": positions(result.labels),
        "predicted": {setting: positions(tasks) for setting, tasks in result.predicted.items()},
        "confidence": {
            setting: np.concatenate(tasks).round(DECIMALS).tolist() for setting, tasks in result.confidence.items()
        },
    }
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()
    atomic_files.replace_file(file, gzip.compress(text, mtime=0))


def read_predictions(run: Path, name: str = PREDICTIONS_FILE) -> Predictions | None:
    """Read the predictions of a run folder; return None where it has none, as of an older version.

    Raises:
        RunError: the file is damaged.
    """
    file = run / name
    if not file.is_file():
        return None
    try:
        found = parse_predictions(json.loads(gzip.decompress(file.read_bytes())))
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as fault:
        raise RunError(
            f"{file}: not readable ({fault}); remove it, and mmcl-fast train --resume writes it again"
        ) from None
    return found


def parse_predictions(values: dict[str, Any]) -> Predictions:
    """Return the predictions that the values of the file say.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: the values are of another form.
    """
    found = Predictions(
        [(modality, name) for modality, name in values["classes"]],
        [str(key) for key in values["keys"]],
        [str(group) for group in values["groups"]],
        np.asarray(values["tasks"], np.int64),
        np.asarray(values["labels"], np.int64),
        {name: np.asarray(ids, np.int64) for name, ids in values["predicted"].items()},
        {name: np.asarray(shares, np.float64) for name, shares in values.get("confidence", {}).items()},
    )
    count = len(found.keys)
    columns = [found.labels, *found.predicted.values()]
    sized = (found.tasks, *columns, *found.confidence.values())
    if not count or len(found.groups) != count or any(c.shape != (count,) for c in sized):
        raise ValueError("its columns are of unlike lengths")
    if found.tasks.min() < 1 or any(c.min() < 0 or c.max() >= len(found.classes) for c in columns):
        raise ValueError("it names a task or a class that is not there")
    return found
