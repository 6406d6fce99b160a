"""A new version of a run: its folder is written whole, and once it is learned it is compared with its parent."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcl_fast import atomic_files
from mmcl_fast.config import Config, require_same_data
from mmcl_fast.errors import RunError
from mmcl_fast.learning import Learner
from mmcl_fast.learning.comparison import Comparison, compare_predictions
from mmcl_fast.learning.current_version import version_folder
from mmcl_fast.learning.predictions import Predictions, predictions_of
from mmcl_fast.learning.versions import is_finished, read_record, resume_command
from mmcl_fast.runs.make_stream import make_stream
from mmcl_fast.runs.metrics_log import MetricsLog
from mmcl_fast.runs.prediction_file import read_predictions
from mmcl_fast.runs.task_file import TASKS_FILE, read_tasks
from mmcl_fast.runs.versions import move_pointer, write_record
from mmcl_fast.streams.stream import Stream

if TYPE_CHECKING:
    from mmcl_fast.progress import Progress
    from mmcl_fast.runs.task_loop import RunResult

BEFORE_FILE = "before.json.gz"  # the parent's predictions, in the form of predictions.json.gz


@dataclass
class VersionResult:
    """A new version of a run, learned and compared with the version before.

    Attributes:
        folder: the new version's run folder.
        run: the run result of its tasks.
        number: its number; 1 in a new run folder.
        comparison: its answers beside the parent's, on the parent's test samples.
        refused: why the pointer did not move to it; empty: it is the current version.
    """

    folder: Path
    run: RunResult
    number: int
    comparison: Comparison
    refused: str


@contextmanager
def new_version_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder to write; at the end it gets the name ``folder``. After an error nothing is left."""
    atomic_files.make_folder(folder.parent)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".new-"))
    try:
        yield temporary
        temporary.chmod(0o755)
        with atomic_files.explain_write_errors(folder):
            if folder.is_dir():
                folder.rmdir()  # empty, as was checked
            os.rename(temporary, folder)
            atomic_files.sync_path(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def next_folder(run: Path, numbers: Sequence[int]) -> Path:
    """Return the folder of the version that comes after the versions with these numbers."""
    return version_folder(run, max(numbers) + 1)


def load_parent(base: Path, config: Config, progress: Progress | None) -> Learner:
    """Load the learner of a version, with the device and the cache that a config names."""
    return Learner.load(
        base,
        device=config.train.device,
        cache_dir=config.train.cache,
        cache_gb=config.train.cache_gb,
        workers=config.train.workers,
        progress=progress,
    )


def write_rows(
    base: Path, folder: Path, learned: int, change: Callable[[dict[str, Any]], list[dict[str, Any]]]
) -> None:
    """Write a parent's metrics.jsonl into a new version's folder.

    Args:
        base: the parent's folder.
        folder: the new version's folder.
        learned: number of tasks that the parent has learned.
        change: returns the events of the new version that stand in place of one of the parent.
    """
    log = MetricsLog(base / "metrics.jsonl")
    log.load(learned, mend=False)  # the parent's file stays as it is
    events = [
        changed
        for event in log.events
        if event["event"] not in ("summary", "resume")
        for changed in change({key: value for key, value in event.items() if key != "taken_for"})
    ]
    lines = "".join(json.dumps(event) + "\n" for event in events)
    atomic_files.write_file(folder / "metrics.jsonl", lines.encode())


def check_target(run: Path, out: Path | None, numbers: Sequence[int]) -> None:
    """Check that a new version can be written. Raises RunError."""
    if out is not None:
        if out.resolve().is_relative_to(run.resolve()):
            raise RunError(f"{out}: is inside {run}; give --out a folder beside it, or leave it out for a new version")
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise RunError(f"{out}: is not empty; give --out a new folder")
        return
    for number in numbers:
        if number != 1 and not is_finished(version_folder(run, number)):
            raise RunError(
                f"{run}: version {number} is not finished; go on with: {resume_command(run, number)}, or remove it "
                f"with: mmcl-fast prune {run} --version {number}"
            )


def learned_tasks(base: Path, config: Config, count: int) -> Stream:
    """Return the ``count`` tasks that the parent has learned, with the samples that it learned and was tested on."""
    if (base / TASKS_FILE).is_file():
        stream = read_tasks(base / TASKS_FILE)
    else:
        stream = make_stream(config, base)
        require_same_data(base, stream.fingerprint)
    return Stream.from_tasks(stream.tasks[:count], stream.root, shared_classes=stream.shared_classes)


def predictions_before(base: Path, learned: Stream, learner: Learner, setting: str) -> Predictions:
    """Return what a parent predicts for the samples of the ``learned`` tasks; evaluate it where it is unfinished.

    Args:
        base: the parent's folder.
        learned: the tasks.
        learner: the parent's learner.
        setting: what to evaluate.
    """
    found = read_predictions(base) or predictions_of(learner.evaluate(learned.tasks, setting=setting))
    return found.select({sample.key for sample in learned.samples})


def finish_version(run: Path, folder: Path, result: RunResult, own_run: bool) -> tuple[int, Comparison, str]:
    """Compare a finished version with its parent, record that, and move the pointer unless a fall is too large."""
    record = read_record(folder)
    before, after = read_predictions(folder, BEFORE_FILE), read_predictions(folder)
    if record is None or before is None or after is None:
        raise RunError(f"{folder}: no longer whole; remove it with mmcl-fast prune, and learn again")
    before = before.renamed(result.learner.aliases)
    comparison = compare_predictions(before, after, [(task.name, task.modality) for task in result.stream.tasks])
    falls = [] if record.max_drop is None else comparison.falls_over(record.max_drop)
    refused = ""
    if falls:
        worst = falls[0]
        refused = (
            f"{worst.scope} {worst.name} fell by {worst.fall:.1f} points ({worst.before:.1f} to {worst.after:.1f} %), "
            f"more than --max-drop {record.max_drop:g}"
        ).replace("all all", "accuracy over all tasks")
    digest = hashlib.sha256()
    for task in read_tasks(folder / TASKS_FILE).tasks[record.learned_before :]:
        digest.update("".join(sorted(sample.sha256 for sample in task.train)).encode())
    number = 1 if own_run else int(folder.name)
    if not (refused or own_run):
        move_pointer(run, number)
    # Last: a version without this record counts as unfinished, and resuming it comes here again.
    write_record(folder, replace(record, refused=refused, comparison=comparison.values(), sha256=digest.hexdigest()))
    return number, comparison, refused
