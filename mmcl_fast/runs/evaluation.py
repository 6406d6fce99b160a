"""The evaluation of a run: what its newest checkpoint gets right, on its own tasks or on other labelled data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmcl_fast.config import read_run_config, require_same_data
from mmcl_fast.errors import StreamError
from mmcl_fast.feature_cache.cache import CACHE_GB
from mmcl_fast.learning import Evaluation, Learner
from mmcl_fast.learning.current_version import current_folder
from mmcl_fast.learning.evaluation import unknown_scores
from mmcl_fast.learning.unknown_counts import require_rate
from mmcl_fast.runs.flagged_samples import FlaggedSamples, count_flagged
from mmcl_fast.runs.kept_test_tokens import restore_test_tokens
from mmcl_fast.runs.make_stream import make_stream
from mmcl_fast.runs.summary import result_notes
from mmcl_fast.streams.class_edits import select_classes, with_current_names
from mmcl_fast.streams.labelled import LabelledData
from mmcl_fast.streams.sample import Task

if TYPE_CHECKING:
    from mmcl_fast.progress import ProgressChoice


@dataclass(frozen=True)
class RunEvaluation:
    """The evaluation of a run.

    Attributes:
        result: accuracies on the tasks learned.
        tasks_learned: number of tasks learned so far.
        tasks_total: number of tasks of the stream.
        notes: what must be said wherever the numbers are shown.
        flagged: the samples that are flagged as unknown; None where no rate was given.
    """

    result: Evaluation
    tasks_learned: int
    tasks_total: int
    notes: list[str]
    flagged: FlaggedSamples | None = None


def evaluate(
    run: str | Path,
    data: str | Path | None = None,
    *,
    setting: str = "both",
    split: str | None = None,
    unknown: float | None = None,
    device: str = "auto",
    workers: int = 2,
    progress: ProgressChoice = "auto",
) -> RunEvaluation:
    """Evaluate a run on the tasks that it has learned so far, or on other data, as ``mmcl-fast evaluate`` does.

    Example::

        print(runs.evaluate("runs/demo", split="val").result.table())
        print(runs.evaluate("runs/demo", "photos/").result.table())

    Args:
        run: the run folder. Of a run with versions the current one is evaluated. With ``data`` also a folder of
            ``Learner.save``.
        data: labelled samples of known classes: a folder, manifest, table or tars. They count as one task for each
            modality. None: the run's own tasks.
        setting: ``agnostic``, ``given`` or ``both``; see ``mmcl_fast.learning.settings.SETTINGS``.
        split: ``train``, ``val`` or ``test``. None: the test split of the run's tasks, or all samples of ``data``.
        unknown: count the samples that are flagged as unknown, at this rate of false alarms between 0 and 1. ``data``
            may hold classes that were not learned then. They count for nothing else.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        workers: number of decoding threads.
        progress: a display of ``mmcl_fast.progress``; None shows nothing. ``"auto"``: bars in a terminal or notebook.

    Raises:
        UserError: no run, no finished task, or a task without a sample in the split. Also data that differ from what
            was learned, or a class that was not learned. With ``unknown`` also a wrong rate, and a run of an earlier
            version, which has no scores.
        ValueError: ``setting`` has another value.
    """
    if unknown is not None:
        require_rate(unknown)
    folder = current_folder(run)
    config = read_run_config(folder) if data is None or (folder / "config.json").is_file() else None
    stream = None
    if data is None and config is not None:
        stream = make_stream(config, folder)
        require_same_data(folder, stream.fingerprint)
    learner = Learner.load(
        folder,
        device=device,
        workers=workers,
        progress=progress,
        cache_dir=None if config is None else config.train.cache,
        cache_gb=CACHE_GB if config is None else config.train.cache_gb,
    )
    if unknown is not None:
        learner.unknown.require_levels(folder)
    if stream is None or config is None:
        tasks_of = [(task["modality"], modality) for task in learner.tasks for modality, _ in task["class_ids"]]
        shared = any(a != b for a, b in tasks_of) if config is None else config.stream.shared_classes
        tasks, strange = _labelled_tasks(str(data), split, learner, shared, unknown is not None)
        result = learner.evaluate(tasks, setting=setting)
        scores = {task.modality: [unknown_scores(learner, task)] for task in strange}
        flagged = None if unknown is None else count_flagged(unknown, _scores_once(result, tasks), scores)
        return RunEvaluation(result, len(tasks), len(tasks), [], flagged)
    restore_test_tokens(folder, learner.cache, stream)
    learned = {task["name"] for task in learner.tasks}
    tasks = [task for task in stream.tasks if task.name in learned]
    result = learner.evaluate(tasks, setting=setting, split=split or "test")
    flagged = None if unknown is None else count_flagged(unknown, _scores_once(result, tasks), {})
    return RunEvaluation(result, len(learned), len(stream), result_notes(config, stream), flagged)


def _labelled_tasks(
    data: str, split: str | None, learner: Learner, shared_classes: bool, allow_unknown: bool
) -> tuple[list[Task], list[Task]]:
    """Read labelled data; return tasks of the classes learned, and tasks of the others.

    Raises:
        StreamError: a class was not learned, unless that is allowed. Then: no class was learned.
    """
    known = [*learner.classes.keys, *learner.aliases]
    found = LabelledData.from_path(data, only_split=split, shared_classes=shared_classes, known=known)
    tasks = [with_current_names(task, learner.aliases) for task in found.tasks]
    ids = learner.classes.ids
    strange = [f"{key[1]!r} of {key[0]}" for task in tasks for key in task.class_ids if key not in ids]
    if strange and not allow_unknown:
        rest = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
        raise StreamError(
            f"{data}: class {', '.join(strange[:3])}{rest}: not learned; take it out, or learn it with mmcl-fast "
            "learn. With --unknown RATE it is counted apart"
        )
    learned, others = (
        [kept for task in tasks if (kept := select_classes(task, wanted)) is not None]
        for wanted in (lambda key: key in ids, lambda key: key not in ids)
    )
    if not learned:
        raise StreamError(
            f"{data}: no sample of a class that was learned; add some, or flag files with mmcl-fast predict --unknown"
        )
    return learned, others


def _scores_once(result: Evaluation, tasks: Sequence[Task]) -> dict[str, list[np.ndarray]]:
    """Return modality -> unknown scores of the samples. A sample that tests two tasks counts once."""
    scores: dict[str, dict[str, float]] = {}
    for task, samples, some in zip(tasks, result.samples, result.unknown):
        scores.setdefault(task.modality, {}).update(zip((sample.key for sample in samples), some.tolist()))
    return {modality: [np.array(list(found.values()))] for modality, found in scores.items()}
