"""The evaluation of a run: what its newest checkpoint gets right on the tasks that it has learned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmcl_fast.config import read_run_config, require_same_data
from mmcl_fast.learning import Evaluation, Learner
from mmcl_fast.learning.current_version import current_folder
from mmcl_fast.runs.make_stream import make_stream
from mmcl_fast.runs.summary import result_notes

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
    *,
    setting: str = "both",
    split: str = "test",
    device: str = "auto",
    workers: int = 2,
    progress: Progress | None = None,
) -> RunEvaluation:
    """Evaluate a run on the tasks that it has learned so far, as ``mmcl-fast evaluate`` does.

    Example::

        print(runs.evaluate("runs/demo", split="val").result.table())

    Args:
        run: the run folder. Of a run with versions the current one is evaluated.
        setting: ``agnostic``, ``given`` or ``both``; see ``mmcl_fast.learning.settings.SETTINGS``.
        split: ``test`` or ``val``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        workers: number of decoding threads.
        progress: a display of ``mmcl_fast.progress``; None shows nothing.

    Raises:
        UserError: no run, no finished task, a task without a sample in the split, or data that differ from what was
            learned.
        ValueError: ``setting`` has another value.
    """
    run = current_folder(run)
    config = read_run_config(run)
    stream = make_stream(config, run)
    require_same_data(run, stream.fingerprint)
    learner = Learner.load(
        run,
        device=device,
        cache_dir=config.train.cache,
        cache_gb=config.train.cache_gb,
        workers=workers,
        progress=progress,
    )
    learned = {task["name"] for task in learner.tasks}
    tasks = [task for task in stream.tasks if task.name in learned]
    result = learner.evaluate(tasks, setting=setting, split=split)
    return RunEvaluation(result, len(learned), len(stream), result_notes(config, stream))
