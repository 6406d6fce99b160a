"""The order in which the tasks of a stream come."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import zip_longest

from mmcl_fast.errors import StreamError
from mmcl_fast.streams.selection import check_modalities

TaskId = tuple[str, str]  # (modality, task name)
ORDERS = ("blocks", "random", "interleaved")
_ADVICE = f"use {', '.join(map(repr, ORDERS))}"


def order_tasks(
    tasks: dict[str, list[str]], order: str | Sequence[str], seed: int, late: str | None = None
) -> list[TaskId]:
    """Return the tasks in the order in which they are learned.

    - ``blocks``: all tasks of the first modality, then all tasks of the second one, and so on.
    - ``interleaved``: the first task of every modality, then the second task of every modality, and so on.
    - ``random``: modalities drawn from ``seed``. The tasks of each modality keep their own order.
    - a list, or names separated by commas: ``image:0`` (a modality's task by number) or the name of a task. Tasks that
      are not in the list are left out of the stream.

    Args:
        tasks: modality -> names of its tasks, in their own order.
        late: the modality whose tasks come after all others. It can't be combined with a list.

    Raises:
        StreamError: an unknown order, task or modality.
    """
    if late is not None:
        check_modalities([late], list(tasks), "late")
        if order not in ORDERS:
            raise StreamError(f"late = {late!r}: the listed order already says what comes last; leave late out")
        others = {modality: names for modality, names in tasks.items() if modality != late}
        return order_tasks(others, order, seed) + [(late, name) for name in tasks[late]]
    blocks = [(modality, name) for modality, names in tasks.items() for name in names]
    if order == "blocks":
        return blocks
    if order == "interleaved":
        columns = [[(modality, name) for name in names] for modality, names in tasks.items()]
        return [task for row in zip_longest(*columns) for task in row if task is not None]
    if order == "random":
        # Shuffle the modalities' turns, not the tasks: the tasks of a modality keep their order.
        turns = [modality for modality, _ in blocks]
        random.Random(seed).shuffle(turns)
        queues = {modality: iter(names) for modality, names in tasks.items()}
        return [(modality, next(queues[modality])) for modality in turns]
    return _listed_tasks(tasks, [part.strip() for part in order.split(",")] if isinstance(order, str) else list(order))


def _listed_tasks(tasks: dict[str, list[str]], wanted: list[str]) -> list[TaskId]:
    known = {f"{modality}:{i}": (modality, name) for modality, names in tasks.items() for i, name in enumerate(names)}
    known |= {name: (modality, name) for modality, names in tasks.items() for name in names}
    chosen: list[TaskId] = []
    for name in wanted:
        if name not in known:
            numbers = ", ".join(key for key in known if ":" in key)
            raise StreamError(f"order names {name!r}: {_ADVICE} or a list of {numbers}")
        if known[name] in chosen:
            raise StreamError(f"order names {name!r} twice: name each task once")
        chosen.append(known[name])
    if not chosen:
        raise StreamError(f"order is an empty list: {_ADVICE} or name the tasks")
    return chosen
