"""The classes of a run: their samples, how often they are recognised, and what they are taken for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mmcl_fast.errors import RunError
from mmcl_fast.learning.current_version import current_folder
from mmcl_fast.learning.predictions import ClassResult
from mmcl_fast.runs.prediction_file import PREDICTIONS_FILE, read_predictions
from mmcl_fast.runs.task_file import TASKS_FILE, read_tasks
from mmcl_fast.streams.sample import ClassId


@dataclass(frozen=True)
class ClassSummary:
    """A class that a run has learned.

    Attributes:
        modality, name: its identity.
        text: its class text.
        tasks: names of the tasks that it came in.
        train: number of training samples.
        test: number of test samples.
        accuracy: right answers in %, in the run's first setting; None without test samples.
        confidence: mean probability of the predicted classes of its test samples in %; None: unknown.
        taken_for: the classes (modality, name) that its test samples are taken for, with their counts, most first.
    """

    modality: str
    name: str
    text: str
    tasks: list[str]
    train: int
    test: int
    accuracy: float | None
    confidence: float | None
    taken_for: list[tuple[ClassId, int]]


def list_classes(run: str | Path) -> list[ClassSummary]:
    """Return the classes of a finished run, or of its current version, in the order in which they were learned.

    Example::

        hard = [c.name for c in runs.list_classes("runs/demo") if (c.accuracy or 0) < 50]

    Raises:
        RunError: the run is not finished, or its files are missing or damaged.
    """
    folder = current_folder(run)
    for name in (TASKS_FILE, PREDICTIONS_FILE):
        if not (folder / name).is_file():
            raise RunError(f"{folder}: no {name}; mmcl-fast train --resume {folder} writes it for a finished run")
    stream, found = read_tasks(folder / TASKS_FILE), read_predictions(folder)
    assert found is not None
    results = found.by_class(next(iter(found.predicted)))
    untested = ClassResult(0, 0.0, None, [])
    tasks: dict[ClassId, list[str]] = {}
    train: Counter[ClassId] = Counter()
    for task in stream.tasks:
        ids = dict(zip(task.classes, task.class_ids))
        for key in task.class_ids:
            tasks.setdefault(key, []).append(task.name)
        train.update(ids[sample.label] for sample in task.train)
    out = []
    for key, names in tasks.items():
        tested = results.get(key, untested)
        accuracy = tested.accuracy if tested.samples else None
        text = stream.class_text[key]
        out.append(
            ClassSummary(*key, text, names, train[key], tested.samples, accuracy, tested.confidence, tested.taken_for)
        )
    return out
