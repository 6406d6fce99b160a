"""Which classes make a task, and in which order the tasks come."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import zip_longest

from mmcl_fast.errors import StreamError
from mmcl_fast.streams.selection import check_modalities

Named = tuple[str, str]  # (modality, task name)
KINDS = ("blocks", "random", "interleaved")
USE = ", ".join(map(repr, KINDS))


def split_classes(
    classes: list[str], per_task: int | None, *, shuffle: bool, seed: int, modality: str
) -> list[list[str]]:
    """Consecutive groups of ``per_task`` classes, the last may be smaller; None: one group."""
    if per_task is not None and per_task < 1:
        raise StreamError(f"classes_per_task = {per_task}: give 1 or more, or leave it out for one task a modality")
    if shuffle:
        classes = random.Random(f"{seed}/{modality}").sample(classes, len(classes))
    step = per_task or max(len(classes), 1)
    return [classes[i : i + step] for i in range(0, len(classes), step)]


def order_tasks(
    tasks: dict[str, list[str]], order: str | Sequence[str], seed: int, late: str | None = None
) -> list[Named]:
    """The order of tasks.

    Args:
        tasks: names of each modality's tasks, in their own order.
        order: ``blocks`` (a modality's tasks, then the next modality's), ``interleaved`` (every modality's first
            task, then every modality's second, ...), ``random`` (drawn from ``seed``, each modality's tasks keep
            their own order), or names: ``image:0`` (a modality's task by number) or a task's name, as a list or
            separated by commas. Tasks not named are left out of the stream.
        late: the modality whose tasks come after all others; not with names.
    """
    if late is not None:
        check_modalities([late], list(tasks), "late")
        if order not in KINDS:
            raise StreamError(f"late = {late!r}: the listed order says itself what comes last; leave late out")
        others = {modality: names for modality, names in tasks.items() if modality != late}
        return order_tasks(others, order, seed) + [(late, name) for name in tasks[late]]
    blocks = [(modality, name) for modality, names in tasks.items() for name in names]
    if order == "blocks":
        return blocks
    if order == "interleaved":
        columns = [[(modality, name) for name in names] for modality, names in tasks.items()]
        return [named for row in zip_longest(*columns) for named in row if named is not None]
    if order == "random":
        turns = [modality for modality, _ in blocks]
        random.Random(seed).shuffle(turns)
        queues = {modality: iter(names) for modality, names in tasks.items()}
        return [(modality, next(queues[modality])) for modality in turns]
    wanted = [part.strip() for part in order.split(",")] if isinstance(order, str) else list(order)
    known = {f"{modality}:{i}": (modality, name) for modality, names in tasks.items() for i, name in enumerate(names)}
    known |= {name: (modality, name) for modality, name in blocks}
    chosen = []
    for name in wanted:
        if name not in known:
            numbers = ", ".join(key for key in known if ":" in key)
            raise StreamError(f"order names {name!r}: use {USE} or a list of {numbers}")
        if known[name] in chosen:
            raise StreamError(f"order names {name!r} twice: each task comes once")
        chosen.append(known[name])
    if not chosen:
        raise StreamError(f"order is an empty list: use {USE} or name the tasks")
    return chosen
