"""Tasks whose classes were renamed or taken out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from mmcl_fast.errors import StreamError
from mmcl_fast.streams.sample import ClassId, Task
from mmcl_fast.streams.stream import Stream


def with_current_names(task: Task, aliases: Mapping[ClassId, ClassId]) -> Task:
    """Return a task with the names of today for classes that it knows by former ones.

    A former name and the name of today in one task become one class.

    Args:
        task: the task.
        aliases: the former key of a renamed class -> its key of today.
    """
    if not any(key in aliases for key in task.class_ids):
        return task
    labels: dict[str, str] = {}
    kept: dict[str, tuple[ClassId, str]] = {}  # label of today -> key and text
    for label, key, text in zip(task.classes, task.class_ids, task.texts):
        now = aliases.get(key, key)
        labels[label] = label if now == key else now[1]
        kept.setdefault(labels[label], (now, text))
    return replace(
        task,
        classes=tuple(kept),
        class_ids=tuple(key for key, _ in kept.values()),
        texts=tuple(text for _, text in kept.values()),
        _samples=tuple(replace(sample, label=labels[sample.label]) for sample in task.samples),
    )


def require_one_name(tasks: Iterable[Task], aliases: Mapping[ClassId, ClassId]) -> None:
    """Check that each class that is to be learned comes under one name.

    Data with a former name and the name of today may mean two classes, or one. A model would learn them as one.

    Args:
        tasks: new tasks.
        aliases: the former key of a renamed class -> its key of today.

    Raises:
        StreamError: a class comes under two names; the message says both.
    """
    names: dict[ClassId, ClassId] = {}
    for task in tasks:
        for key in task.class_ids:
            now = aliases.get(key, key)
            former, present = sorted((names.setdefault(now, key), key), key=lambda k: k == now)
            if former != present:
                raise StreamError(
                    f"task {task.name}: classes {former[1]!r} and {present[1]!r} of {now[0]}: "
                    f"{former[1]!r} is a former name of {now[1]!r}, so both would be learned as one class; "
                    "give both the name of today if they are one, and a new name to the class that is another"
                )


def renamed_class(stream: Stream, key: ClassId, renamed: ClassId, text: str) -> Stream:
    """Return a stream in which the class ``key`` is called ``renamed`` and has the class text ``text``."""
    tasks = []
    for task in stream.tasks:
        now = with_current_names(task, {key: renamed})
        texts = tuple(text if own == renamed else old for own, old in zip(now.class_ids, now.texts))
        tasks.append(replace(now, texts=texts))
    return Stream.from_tasks(tasks, stream.root, shared_classes=stream.shared_classes)


def without_class(stream: Stream, key: ClassId) -> Stream:
    """Return a stream without a class and its samples. A task of this class alone goes too."""
    tasks = [kept for task in stream.tasks if (kept := select_classes(task, lambda own: own != key)) is not None]
    return Stream.from_tasks(tasks, stream.root, shared_classes=stream.shared_classes)


def select_classes(task: Task, wanted: Callable[[ClassId], bool]) -> Task | None:
    """Return a task with the wanted classes and their samples alone; None where it has no such class."""
    kept = [number for number, key in enumerate(task.class_ids) if wanted(key)]
    labels = {task.classes[number] for number in kept}
    if not kept:
        return None
    return replace(
        task,
        classes=tuple(task.classes[number] for number in kept),
        class_ids=tuple(task.class_ids[number] for number in kept),
        texts=tuple(task.texts[number] for number in kept),
        _samples=tuple(sample for sample in task.samples if sample.label in labels),
    )
