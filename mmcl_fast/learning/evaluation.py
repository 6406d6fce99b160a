"""Accuracy of a learner on tasks, and the calibration of its probabilities.

Each sample is predicted by itself, with its modality given or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from mmcl_fast import distributed
from mmcl_fast.errors import StreamError
from mmcl_fast.learning.calibration import Calibration, fit_temperatures
from mmcl_fast.learning.classes import add_classes
from mmcl_fast.learning.model import Model, trunk_tokens_of_all, trunk_tokens_of_shard
from mmcl_fast.learning.settings import SETTINGS, setting_label
from mmcl_fast.streams.class_edits import with_current_names
from mmcl_fast.streams.sample import ClassId, Sample, Task


@dataclass
class Evaluation:
    """Predictions for the samples of some tasks, in each setting (``SETTINGS``).

    Attributes:
        names: the tasks' names.
        classes: the classes (modality, name) of each task.
        samples: the samples of each task in the evaluated split.
        labels: the true class of each sample of each task.
        predicted: setting -> for each task: the predicted class of each sample.
        confidence: setting -> for each task: the probability of the predicted class of each sample, ``[n]``. It does
            not count when evaluations are compared.
        unknown: for each task the unknown score of each sample (``mmcl_fast.learning.unknown``), ``[n]`` float64; NaN
            where there is none. It does not count when evaluations are compared.

    Example::

        result = learner.evaluate(stream.seen)
        print(result.table())
        result.mean("agnostic")  # mean accuracy over the tasks, in %
    """

    names: list[str]
    classes: list[Sequence[ClassId]] = field(default_factory=list)
    samples: list[list[Sample]] = field(default_factory=list)
    labels: list[list[ClassId]] = field(default_factory=list)
    predicted: dict[str, list[list[ClassId]]] = field(default_factory=dict)
    confidence: dict[str, list[np.ndarray]] = field(default_factory=dict, compare=False)
    unknown: list[np.ndarray] = field(default_factory=list, compare=False)

    @property
    def counts(self) -> list[int]:
        """Return the number of samples of each task."""
        return [len(samples) for samples in self.samples]

    @cached_property
    def confusion(self) -> dict[str, list[Counter[tuple[ClassId, ClassId]]]]:
        """Setting -> for each task: (true class, predicted class) -> number of samples."""
        return {
            name: [Counter(zip(labels, found)) for labels, found in zip(self.labels, tasks)]
            for name, tasks in self.predicted.items()
        }

    @property
    def correct(self) -> dict[str, list[int]]:
        """Return the number of right answers: setting -> for each task."""
        return {name: [sum(right) for right in self.by_class(name)] for name in self.confusion}

    def by_class(self, setting: str) -> list[list[int]]:
        """Return the number of right answers for each class of each task."""
        return [[found[c, c] for c in classes] for classes, found in zip(self.classes, self.confusion[setting])]

    def top_confusions(self, setting: str, limit: int) -> list[list[list[tuple[ClassId, int]]]]:
        """Return the most frequent wrong predictions for each class of each task, with their counts.

        Example: ``[[[(("image", "cat"), 3)], []]]`` says that 3 samples of the first class were taken for a cat.

        Args:
            setting: a key of ``confusion``.
            limit: the most predictions to list for a class.
        """
        out = []
        for classes, found in zip(self.classes, self.confusion[setting]):
            wrong: dict[ClassId, Counter[ClassId]] = {c: Counter() for c in classes}
            for (true, predicted), count in found.items():
                if predicted != true:
                    wrong[true][predicted] = count
            out.append([sorted(wrong[c].items(), key=lambda pair: (-pair[1], pair[0]))[:limit] for c in classes])
        return out

    def accuracy(self, setting: str) -> list[float]:
        """Return the accuracy on each task, in per cent."""
        return [100.0 * right / count for right, count in zip(self.correct[setting], self.counts)]

    def mean(self, setting: str) -> float:
        """Return the mean accuracy over the tasks, in per cent."""
        values = self.accuracy(setting)
        return sum(values) / len(values)

    def table(self) -> str:
        """Return a plain text table of accuracies in per cent: a line per task, a column per setting, the mean last."""
        settings = list(self.correct)
        width = max(len(n) for n in [*self.names, "mean"])
        lines = [" " * width + "".join(f"{setting_label(s):>20}" for s in settings)]
        columns = {s: self.accuracy(s) for s in settings}
        for i, name in enumerate(self.names):
            lines.append(f"{name:<{width}}" + "".join(f"{columns[s][i]:20.1f}" for s in settings))
        lines.append(f"{'mean':<{width}}" + "".join(f"{self.mean(s):20.1f}" for s in settings))
        return "\n".join(lines)


def settings_of(setting: str) -> tuple[str, ...]:
    """Return the settings that an option asks for: ``given`` is evaluated masked too, ``both`` means all three.

    Raises:
        ValueError: ``setting`` is none of agnostic, given and both.
    """
    if setting == "both":
        return tuple(SETTINGS)
    if setting == "given":
        return ("given", "given_masked")
    if setting == "agnostic":
        return ("agnostic",)
    raise ValueError(f"setting = {setting!r}: use agnostic, given or both")


def evaluate(
    model: Model, tasks: Sequence[Task], setting: str = "both", split: str = "test", upcoming: Sequence[Task] = ()
) -> Evaluation:
    """Evaluate a model on tasks; ``Learner.evaluate`` documents the arguments and errors."""
    settings = settings_of(setting)
    if not tasks:
        raise StreamError("evaluate: no task given; learn one first")
    tasks = [with_current_names(task, model.aliases) for task in tasks]
    known = len(model.classes)
    classes = model.classes
    for task in [*tasks, *upcoming]:
        classes = add_classes(classes, task, model.encoder)
    learned = {t["name"] for t in model.tasks}
    learned_ids: dict[str, set[int]] = {task.modality: set() for task in tasks}  # modality -> its classes learned
    for t in model.tasks:
        learned_ids.setdefault(t["modality"], set()).update(classes.ids[tuple(key)] for key in t["class_ids"])

    # For each task [k, 2 + 2 settings]: the position of this process's k samples in the task, the ids predicted, their
    # probabilities, and the unknown scores.
    found: list[np.ndarray] = []
    for task in tasks:
        all_samples = task.split(split)
        if not all_samples:
            raise StreamError(f"task {task.name}: no sample in its {split} split; add files or choose another split")
        samples = distributed.shard(all_samples)
        tokens = trunk_tokens_of_shard(model, samples, f"{task.name}: decode and trunk", keep=True)
        if tokens is None:
            found.append(np.empty((0, 2 + 2 * len(settings))))
            continue
        # One computation serves all settings where the modality cannot change the scores.
        uses_given = model.method.uses_given_modality
        needed = {name != "agnostic" for name in settings} if uses_given else {True}
        with distributed.single_process():
            scores = {given: model.method.scores(tokens, task.modality, classes, given=given) for given in needed}
        old_ids = learned_ids[task.modality]
        new_ids = {classes.ids[key] for key in task.class_ids} - old_ids
        columns = [torch.tensor(distributed.shard(range(len(all_samples)))).double()]
        confidence = []
        for name in settings:
            given, count = name != "agnostic" or not uses_given, known if task.name in learned else len(classes)
            competing = scores[given][:, :count]
            own = torch.tensor([*sorted(old_ids), *sorted(new_ids)]) if name == "given_masked" else None
            best = best_columns(competing, own)
            columns.append(best.cpu().double())
            confidence.append(_confidence(competing, own, best, model.calibration.temperature(task.modality)))
        unknown = np.array(model.unknown(tokens, task.modality), np.float64)  # None becomes NaN
        found.append(np.column_stack([torch.stack([*columns, *confidence], 1).numpy(), unknown]))
    gathered = [np.concatenate(parts) for parts in zip(*distributed.all_gather_object(found))]
    in_order = [rows[rows[:, 0].argsort()] for rows in gathered]
    keys = [dict(zip(task.classes, task.class_ids)) for task in tasks]
    all_of = [task.split(split) for task in tasks]
    return Evaluation(
        [task.name for task in tasks],
        [task.class_ids for task in tasks],
        all_of,
        [[key[sample.label] for sample in some] for key, some in zip(keys, all_of)],
        {
            name: [[classes.keys[k] for k in rows[:, column].astype(int).tolist()] for rows in in_order]
            for column, name in enumerate(settings, 1)
        },
        {name: [rows[:, column] for rows in in_order] for column, name in enumerate(settings, 1 + len(settings))},
        [rows[:, -1] for rows in in_order],
    )


def unknown_scores(model: Model, task: Task, split: str = "test") -> np.ndarray:
    """Return the unknown scores of a task's samples, ``[n]`` float64; NaN where there is none.

    Args:
        model: the model. It need not have learned the task.
        task: the task.
        split: the split of the samples.

    Raises:
        MediaError: a file is broken.
    """
    tokens = trunk_tokens_of_all(model, task.split(split), f"{task.name}: decode and trunk")
    return np.array(model.unknown(tokens, task.modality), np.float64)  # None becomes NaN


def scores_of_split(model: Model, tasks: Sequence[Task], split: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Return what a calibration is fitted on: the scores of samples whose modality is not given.

    Args:
        model: the model.
        tasks: tasks that it has learned. Tasks without samples in the split are passed over.
        split: the split of the samples.

    Returns:
        modality -> scores ``[n, C]`` float64 and true classes ``[n]`` int64, on the CPU, in the samples' order.

    Raises:
        MediaError: a file is broken.
    """
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for task in (with_current_names(task, model.aliases) for task in tasks):
        samples = task.split(split)
        if not samples:
            continue
        ids = {name: model.classes.ids[key] for name, key in zip(task.classes, task.class_ids)}
        tokens = trunk_tokens_of_all(model, samples, f"{task.name}: decode and trunk")
        with torch.no_grad(), distributed.single_process():
            scores = model.method.scores(tokens, task.modality, model.classes, given=False).double().cpu()
        found.setdefault(task.modality, []).append((scores, torch.tensor([ids[s.label] for s in samples])))
    return {m: (torch.cat([s for s, _ in some]), torch.cat([y for _, y in some])) for m, some in found.items()}


def calibrate(model: Model, tasks: Sequence[Task], split: str = "val") -> Calibration:
    """Fit the temperatures of a model on the held-out samples of the tasks that it has learned.

    Args:
        model: the model.
        tasks: the tasks. Tasks without samples in the split are passed over.
        split: the split that holds samples which were not learned.

    Raises:
        MediaError: a file is broken.
    """
    scored = scores_of_split(model, tasks, split)
    return Calibration.from_values(distributed.broadcast_object(fit_temperatures(scored).values()))


def _confidence(scores: Tensor, columns: Tensor | None, best: Tensor, temperature: float) -> Tensor:
    """Return the probability of the best class among the columns that compete, ``[n]`` float64 on the CPU."""
    competing = scores if columns is None else scores[:, columns.to(scores.device)]
    chosen = scores.gather(1, best.unsqueeze(1)).squeeze(1)
    return (chosen / temperature - (competing / temperature).logsumexp(1)).exp().double().cpu()


def best_columns(scores: Tensor, columns: Tensor | None = None) -> Tensor:
    """Return each row's column with the highest score, ``[n]`` int64.

    Args:
        scores: ``[n, C]``.
        columns: ``[k]`` int64, the columns that compete; None: all.
    """
    if columns is None:
        return scores.argmax(1)
    columns = columns.to(scores.device)
    return columns[scores[:, columns].argmax(1)]
