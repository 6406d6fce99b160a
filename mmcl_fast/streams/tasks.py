"""From samples to tasks: class names in one spelling, classes grouped into tasks, and the fingerprint of tasks."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mmcl_fast.errors import StreamError
from mmcl_fast.streams.findings import Findings
from mmcl_fast.streams.name_forms import normalize_name
from mmcl_fast.streams.sample import ClassId, Sample, Task


def normalize_labels(samples: Sequence[Sample], findings: Findings) -> tuple[Sequence[Sample], Mapping[ClassId, str]]:
    """Return the samples with labels in Unicode form NFC, and the original spelling of each class that had another one.

    A class that the data spell in both forms has no single original spelling. It becomes a finding instead.
    """
    spellings: dict[ClassId, set[str]] = {}
    for modality, label in dict.fromkeys((sample.modality, sample.label) for sample in samples):
        spellings.setdefault((modality, normalize_name(label)), set()).add(label)
    for (modality, label), forms in spellings.items():
        if len(forms) > 1:
            line = f"class {label!r} of {modality}: spelt in two Unicode forms (NFC and NFD), which count as one class"
            findings.add("two-spellings", line, modality=modality, label=label)
    if all(forms == {label} for (_, label), forms in spellings.items()):
        return samples, {}
    originals = {
        (modality, label): next(iter(forms))
        for (modality, label), forms in spellings.items()
        if len(forms) == 1 and label not in forms
    }
    return [replace(sample, label=normalize_name(sample.label)) for sample in samples], originals


def split_classes(
    classes: list[str], per_task: int | None, *, shuffle: bool, seed: int, modality: str, together: int = 1
) -> list[list[str]]:
    """Split the classes into consecutive groups of ``per_task``; None gives one group. The last one may be smaller.

    Args:
        classes: in their own order.
        per_task: the size of a group.
        shuffle: draw the groups from ``seed`` and ``modality``.
        together: so many consecutive classes stay together when they are shuffled.

    Raises:
        StreamError: a number below 1, or ``per_task`` is no multiple of ``together``.
    """
    if together < 1:
        raise StreamError(f"classes_together = {together}: give 1 or more")
    if per_task is not None and per_task % together:
        raise StreamError(
            f"classes_together = {together}: does not divide classes_per_task = {per_task}, so that a task would "
            f"separate classes; give a multiple of {together}"
        )
    if per_task is not None and per_task < 1:
        raise StreamError(f"classes_per_task = {per_task}: give 1 or more, or leave it out for one task per modality")
    if shuffle:
        units = [classes[i : i + together] for i in range(0, len(classes), together)]
        units = random.Random(f"{seed}/{modality}").sample(units, len(units))
        units.sort(key=lambda unit: len(unit) < together)  # a smaller unit comes last, as the tasks count classes
        classes = [name for unit in units for name in unit]
    step = per_task or max(len(classes), 1)
    return [classes[i : i + step] for i in range(0, len(classes), step)]


def group_by_task(
    samples: Sequence[Sample],
    task_names: Mapping[str, str] | None,
    per_task: int | None,
    shuffle: bool,
    seed: int,
    together: int = 1,
) -> dict[tuple[str, str], list[Sample]]:
    """Return ``(modality, task name) -> samples``. The samples of a task are grouped by class.

    ``task_names``: sample key -> task name, where a manifest names the tasks. ``per_task``, ``shuffle``, ``seed``
    and ``together``: as in ``split_classes``.
    """
    groups: dict[tuple[str, str], list[Sample]] = {}
    if task_names:
        if per_task is not None or shuffle:
            raise StreamError("the manifest names its tasks: leave out classes_per_task and shuffle_classes")
        for sample in samples:
            groups.setdefault((sample.modality, task_names[sample.key]), []).append(sample)
        return groups
    by_class: dict[str, dict[str, list[Sample]]] = {}
    for sample in samples:
        by_class.setdefault(sample.modality, {}).setdefault(sample.label, []).append(sample)
    for modality, classes in by_class.items():
        chunks = split_classes(
            list(classes), per_task, shuffle=shuffle, seed=seed, modality=modality, together=together
        )
        for i, labels in enumerate(chunks):
            groups[modality, f"{modality}-{i}"] = [sample for label in labels for sample in classes[label]]
    return groups


def without_samples(samples: Sequence[Sample], reasons: Mapping[str, str], task: str, root: object) -> list[Sample]:
    """Return the samples of a task that are not in ``reasons``: sample key -> why the sample does not decode.

    Raises:
        StreamError: a class would lose its last training or test sample, or the task its last validation sample.
    """
    remaining = [sample for sample in samples if sample.key not in reasons]
    still_there = {(sample.label, sample.split) for sample in remaining}
    an_example = {(sample.label, sample.split): sample for sample in samples if sample.split != "val"}
    for (label, split), sample in an_example.items():
        if (label, split) not in still_there:
            word = "training" if split == "train" else split
            raise StreamError(
                f"{root}: class {label!r} of {sample.modality} has no {word} file left, because none decodes "
                f"({reasons[sample.key]}): repair the files, or remove the class"
            )
    validation = [sample for sample in samples if sample.split == "val"]
    if validation and not any(sample.split == "val" for sample in remaining):
        raise StreamError(
            f"{root}: task {task!r} has no validation file left, because none decodes "
            f"({reasons[validation[0].key]}): repair the files, or remove them all"
        )
    return remaining


def tasks_fingerprint(tasks: Sequence[Task], original_labels: Mapping[ClassId, str]) -> str:
    """Return the sha256 over tasks in order: names, classes, and every sample's key, split and label.

    Labels count as the data spell them (``original_labels``). Fingerprints of run folders from before labels had one
    form stay valid.
    """
    values = [
        [
            task.name,
            task.modality,
            [(modality, original_labels.get((modality, name), name)) for modality, name in task.class_ids],
            [
                [sample.key, sample.split, original_labels.get((sample.modality, sample.label), sample.label)]
                for sample in task.samples
            ],
        ]
        for task in tasks
    ]
    return hashlib.sha256(json.dumps(values, ensure_ascii=False).encode()).hexdigest()
