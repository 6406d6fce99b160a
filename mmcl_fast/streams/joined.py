"""Two streams as one: the tasks that a model has learned, and new ones after them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from mmcl_fast.errors import StreamError
from mmcl_fast.streams.class_edits import with_current_names
from mmcl_fast.streams.grouping import like_old
from mmcl_fast.streams.sample import ClassId, Sample, Task
from mmcl_fast.streams.stream import Stream


def join_streams(learned: Stream, new: Stream, prefix: str, aliases: Mapping[ClassId, ClassId] | None = None) -> Stream:
    """Return the tasks of ``learned``, then the tasks of ``new``.

    A class that both name is one class, with the text of ``learned``. If it comes without test samples, its old test
    samples test the new task too. New tasks whose names are taken get other names:
    ``image-0`` becomes the next free ``image-N``.

    Args:
        learned: the tasks that a model has learned.
        new: the tasks that come after them.
        prefix: begins the keys of the new samples. The same relative path in another folder is another sample.
        aliases: the former key of a renamed class -> its key of today; new data may still have the former name.

    Raises:
        StreamError: one of the streams has shared classes and the other has not.
    """
    if learned.shared_classes != new.shared_classes:
        raise StreamError(
            f"{new.root}: stream.shared_classes = {str(new.shared_classes).lower()}, but the run learned with "
            f"{str(learned.shared_classes).lower()}; set it to the same value"
        )
    names = {task.name for task in learned.tasks}
    aliases = aliases or {}
    ids = [*learned.class_text, *aliases] if learned.shared_classes else []
    known = {key[1]: key for key in ids}  # a name means the same class in every modality
    tasks = list(learned.tasks)
    for task in new.tasks:
        task = replace(task, class_ids=tuple(known.get(key[1], key) for key in task.class_ids))
        task = with_current_names(task, aliases)
        name = _free_name(task, names)
        names.add(name)
        texts = tuple(learned.class_text.get(key, text) for key, text in zip(task.class_ids, task.texts))
        samples = tuple(replace(sample, key=prefix + sample.key) for sample in task.samples)
        samples += tuple(_old_tests(learned, task, task.modality in new.without_splits))
        tasks.append(Task(len(tasks), name, task.modality, task.classes, task.class_ids, texts, samples))
    out = Stream.from_tasks(tasks, new.root, shared_classes=new.shared_classes)
    out.findings, out.skipped = new.findings, new.skipped
    out.groups, out.held_out, out.without_splits = new.groups, new.held_out, new.without_splits
    return out


def require_unseen_groups(learned: Stream, new: Stream) -> None:
    """Check that no group of old test samples has new samples to learn from, and the other way round.

    Raises:
        StreamError: there is one; the message names a pair.
    """
    old = {(s.group, s.split == "test"): s for s in learned.samples if s.group}
    for sample in new.samples:
        other = old.get((sample.group, sample.split != "test"))
        if sample.group and other is not None:
            raise StreamError(
                f"{new.root}: {sample.key}: group {sample.group!r} is in the new {sample.split} split and in the old "
                f"{other.split} split ({other.key}): remove it from the new data"
            )


def find_similar_to_old(learned: Stream, new: Stream) -> list[tuple[Sample, Sample]]:
    """Return the new samples that resemble old ones of the other side, with these: one is trained on, one held out.

    The groups of ``new`` say it (``like_old``), if its rule is ``duplicates``.
    """
    old = {like_old(sample): sample for sample in learned.samples}
    pairs = ((sample, old.get(new.groups.get(sample.key, ""))) for sample in new.samples)
    return [(s, other) for s, other in pairs if other is not None and (s.split == "train") != (other.split == "train")]


def tested_classes(learned: Stream) -> list[ClassId]:
    """Return the classes, by modality and name, that have test samples."""
    return list(dict.fromkeys((s.modality, s.label) for task in learned.tasks for s in task.test))


def _old_tests(learned: Stream, task: Task, held_out: bool) -> list[Sample]:
    """Return the learned test samples of the task's classes that come without their own.

    Args:
        learned: the tasks that a model has learned.
        task: a new task.
        held_out: its data have no splits. Then all classes that were learned are tested on their old samples.
    """
    own = set() if held_out else {sample.label for sample in task.test}
    labels = set(task.classes) - own
    old = (s for other in learned.tasks if other.modality == task.modality for s in other.test if s.label in labels)
    return list({sample.key: sample for sample in old}.values())


def require_unseen_content(
    learned: Stream, new: Stream, old_contents: Mapping[str, str], new_contents: Mapping[str, str]
) -> None:
    """Check that no new training content is an old test content, and the other way round.

    Args:
        learned: the tasks that a model has learned.
        new: the tasks that come after them.
        old_contents: key -> hash of the content of the old samples; keys may be missing.
        new_contents: likewise of the new samples.

    Raises:
        StreamError: there are equal ones; the message names a pair.
    """
    old = {
        (sample.modality, sample.split == "train", old_contents.get(sample.key) or sample.sha256): sample
        for sample in learned.samples
    }
    for sample in new.samples:
        content = new_contents.get(sample.key)
        other = old.get((sample.modality, sample.split != "train", content)) if content else None
        if other is not None:
            where = other.key if other.path is None else str(other.path)
            raise StreamError(
                f"{new.root}: {sample.key}: equal content in the new {sample.split} split and the old {other.split} "
                f"split ({where}): remove it from the new data"
            )


def _free_name(task: Task, taken: set[str]) -> str:
    """Return the task's name, or one like it that is free."""
    if task.name not in taken:
        return task.name
    numbered = re.fullmatch(r"(.*)-\d+", task.name)
    stem, number = (numbered[1] if numbered else task.name), 0
    while f"{stem}-{number}" in taken:
        number += 1
    return f"{stem}-{number}"
