"""The classes that a learner knows, and their texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mmcl_fast.encoders import Encoder, Tokens
from mmcl_fast.methods import Classes, TaskData
from mmcl_fast.streams.name_forms import name_normalizer
from mmcl_fast.streams.sample import Task


def add_classes(classes: Classes, task: Task, encoder: Encoder) -> Classes:
    """Return the classes with a task's new ones at the end; known classes keep their ids.

    A text that another class already has gets the modality: "dog", seen and then heard, becomes "dog (audio)".
    """
    new = {key: text for key, text in zip(task.class_ids, task.texts) if key not in classes.ids}
    if not new:
        return classes
    keys, texts, used = [*classes.keys, *new], list(classes.texts), set(classes.texts)
    for key, text in new.items():
        texts.append(f"{text} ({key[0]})" if text in used else text)
        used.add(texts[-1])
    embedded = encoder.text(texts[len(classes) :]).to(encoder.device)
    return Classes(keys, texts, torch.cat([classes.embedding, embedded]))


def task_data(task: Task, index: int, tokens: Tokens, classes: Classes, views: int, device: torch.device) -> TaskData:
    """Return what a method learns from a task.

    Args:
        task: the task, with n training samples.
        index: number of tasks learned before it.
        tokens: trunk tokens of ``views`` x n samples.
        classes: all classes, the task's included.
        views: views of each sample.
        device: of the labels.
    """
    ids = {name: classes.ids[key] for name, key in zip(task.classes, task.class_ids)}
    labels = torch.tensor([ids[s.label] for s in task.train] * views, device=device)
    trained = {s.label for s in task.train}
    own = [ids[name] for name in task.classes if name in trained]  # a class may have test samples alone
    return TaskData(index, task.modality, tokens, labels, own, views)


def canonical_names(
    keys: Sequence[Sequence[str]], tasks: Sequence[dict[str, Any]]
) -> tuple[list[tuple[str, str]], list[dict[str, Any]]]:
    """Return stored class keys ``(modality, name)`` and task records with names in the form that streams give.

    Checkpoints can be older than that form. A Mac then wrote folder names in Unicode's decomposed form.
    """
    canonical = name_normalizer([(modality, name) for modality, name in keys])
    renamed = [
        {
            **task,
            "classes": [canonical(name) for name in task["classes"]],
            "class_ids": [[modality, canonical(name)] for modality, name in task["class_ids"]],
        }
        for task in tasks
    ]
    return [(modality, canonical(name)) for modality, name in keys], renamed
