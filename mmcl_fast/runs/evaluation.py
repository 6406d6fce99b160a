"""The evaluation of a run: what its newest checkpoint gets right, on its own tasks or on other labelled data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmcl_fast.config import read_run_config, require_same_data
from mmcl_fast.errors import StreamError
from mmcl_fast.feature_cache.cache import CACHE_GB
from mmcl_fast.learning import Evaluation, Learner
from mmcl_fast.learning.current_version import current_folder
from mmcl_fast.runs.kept_test_tokens import restore_test_tokens
from mmcl_fast.runs.make_stream import make_stream
from mmcl_fast.runs.summary import result_notes
from mmcl_fast.streams.class_edits import with_current_names
from mmcl_fast.streams.labelled import LabelledData

if TYPE_CHECKING:
    from mmcl_fast.progress import Progress


@dataclass(frozen=True)
class RunEvaluation:
    """The evaluation of a run.

    Attributes:
        result: accuracies on the tasks learned.
        tasks_learned: number of tasks learned so far.
        tasks_total: number of tasks of the stream.
        notes: what must be said wherever the numbers are shown.
    """

    result: Evaluation
    tasks_learned: int
    tasks_total: int
    notes: list[str]


def evaluate(
    run: str | Path,
    data: str | Path | None = None,
    *,
    setting: str = "both",
    split: str | None = None,
    device: str = "auto",
    workers: int = 2,
    progress: Progress | None = None,
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
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        workers: number of decoding threads.
        progress: a display of ``mmcl_fast.progress``; None shows nothing.

    Raises:
        UserError: no run, no finished task, or a task without a sample in the split. Also data that differ from what
            was learned, or a class that was not learned.
        ValueError: ``setting`` has another value.
    """
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
    if stream is None or config is None:
        tasks_of = [(task["modality"], modality) for task in learner.tasks for modality, _ in task["class_ids"]]
        shared = any(a != b for a, b in tasks_of) if config is None else config.stream.shared_classes
        labelled = _known_data(str(data), split, learner, shared)
        result = learner.evaluate(labelled.tasks, setting=setting)
        return RunEvaluation(result, len(labelled), len(labelled), [])
    restore_test_tokens(folder, learner.cache, stream)
    learned = {task["name"] for task in learner.tasks}
    tasks = [task for task in stream.tasks if task.name in learned]
    result = learner.evaluate(tasks, setting=setting, split=split or "test")
    return RunEvaluation(result, len(learned), len(stream), result_notes(config, stream))


def _known_data(data: str, split: str | None, learner: Learner, shared_classes: bool) -> LabelledData:
    """Read labelled data. Raises StreamError where a class was not learned."""
    known = [*learner.classes.keys, *learner.aliases]
    found = LabelledData.from_path(data, only_split=split, shared_classes=shared_classes, known=known)
    found.tasks = [with_current_names(task, learner.aliases) for task in found.tasks]
    unknown = [
        f"{key[1]!r} of {key[0]}" for task in found.tasks for key in task.class_ids if key not in learner.classes.ids
    ]
    if unknown:
        rest = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise StreamError(
            f"{data}: class {', '.join(unknown[:3])}{rest}: not learned; take it out, or learn it with mmcl-fast learn"
        )
    assert isinstance(found, LabelledData)
    return found
