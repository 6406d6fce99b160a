"""About how long the tasks take that a run has not learned yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmcl_fast.progress import format_time
from mmcl_fast.streams.sample import Task


def seconds_left(events: Sequence[dict[str, Any]], tasks: Sequence[Task], views: int) -> float | None:
    """Return the seconds that tasks need, by what the run's tasks took so far; None where nothing was timed.

    A training sample counts as much as the samples of its modality took, evaluation included. A modality without a
    task so far counts as the mean of all.

    Args:
        events: of the run's metrics.jsonl.
        tasks: the tasks that are left.
        views: views of each training sample.
    """
    seconds: dict[str, float] = {}
    samples: dict[str, int] = {}
    for event in events:
        count = event["counts"].get("decode and trunk", 0) if event["event"] == "task" else 0
        for modality in (event["modality"], "all") if count else ():
            seconds[modality] = seconds.get(modality, 0.0) + sum(event["seconds"].values())
            samples[modality] = samples.get(modality, 0) + count
    if not samples:
        return None
    rates = {modality: seconds[modality] / samples[modality] for modality in samples}
    return sum(len(task.train) * views * rates.get(task.modality, rates["all"]) for task in tasks)


def describe_time_left(events: Sequence[dict[str, Any]], tasks: Sequence[Task], views: int) -> str:
    """Return words such as "3 tasks left, about 0:02:10"; empty where ``seconds_left`` knows nothing."""
    seconds = seconds_left(events, tasks, views) if tasks else None
    if seconds is None:
        return ""
    return f"{len(tasks)} task{'s' * (len(tasks) > 1)} left, about {format_time(seconds)}"
