"""Take a class out of a run, or rename it: the run gets a new version, which is compared with the one before.

The version's folder begins with the changed state, the changed list of tasks, and the parent's rows of R without the
class. Then it is evaluated like the last task of any run.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mmcl_fast import atomic_files
from mmcl_fast.config import Config, read_run_config
from mmcl_fast.errors import MediaError, RunError
from mmcl_fast.feature_cache.kept_tokens import delete_tokens, take_back
from mmcl_fast.learning import Learner, checkpoint
from mmcl_fast.learning.class_changes import find_class
from mmcl_fast.learning.current_version import current_version, version_folder
from mmcl_fast.learning.versions import VersionRecord, require_run, version_numbers
from mmcl_fast.progress import Progress, ProgressChoice, choose_display
from mmcl_fast.runs.folder import write_config
from mmcl_fast.runs.kept_test_tokens import TOKENS_FOLDER, keep_test_tokens, testable_tasks
from mmcl_fast.runs.make_stream import with_texts
from mmcl_fast.runs.new_version import (
    BEFORE_FILE,
    VersionResult,
    check_target,
    finish_version,
    learned_tasks,
    load_parent,
    new_version_folder,
    next_folder,
    predictions_before,
    write_rows,
)
from mmcl_fast.runs.prediction_file import write_predictions
from mmcl_fast.runs.task_file import KNOWN_TASKS_FILE, write_tasks
from mmcl_fast.runs.training import train
from mmcl_fast.runs.versions import now, read_newest, remove_leftovers, write_record
from mmcl_fast.streams.class_edits import renamed_class, without_class
from mmcl_fast.streams.sample import ClassId, Sample, Task, aliases_to_values
from mmcl_fast.streams.stream import Stream


def remove(
    run: str | Path, name: str, *, retrain: bool = False, progress: ProgressChoice = "auto"
) -> tuple[VersionResult, list[str]]:
    """Take a class out of a run, as ``mmcl-fast remove`` does. Older versions keep it until they are pruned.

    Its statistics, text, test samples, report pictures and cached trunk tokens are not in the new version.

    Example::

        result, remains = runs.remove("runs/demo", "audio/dog")

    Args:
        run: the run folder.
        name: the class, as ``modality/name``, or the name alone where only one modality has it.
        retrain: learn all tasks again without the class. Nothing of it remains, and all training data are needed.
        progress: a display of ``mmcl_fast.progress``; None shows nothing. ``"auto"``: bars in a terminal or notebook.

    Returns:
        The new version, and what still holds a share of the class.

    Raises:
        UserError: there is no such class, the method can't take it out, or training data are gone.
        RunStopped: as for ``train``; ``learn`` with ``resume`` goes on.
    """
    run = Path(run)
    require_run(run)
    with atomic_files.lock_folder(run):
        edit = _Edit(run, choose_display(progress))
        key = find_class(edit.learner.classes.keys, name)
        after = without_class(edit.learned, key)
        removed = [s for task in edit.all_tasks.tasks for s in _samples_of(task, key)]
        remains: list[str] = []
        if retrain:
            _require_training_data(edit.base, after, edit.learner)
            edit.learner.forget_names(key)
        else:
            remains = edit.learner.remove(name)
        record = edit.record("retrain" if retrain else "remove", f"without {'/'.join(key)}", after)
        folder = edit.write(record, after, key)
        for modality in dict.fromkeys(sample.modality for sample in removed):
            some = [sample for sample in removed if sample.modality == modality]
            delete_tokens(edit.learner.cache, edit.learner.encoder, some, edit.learner.views, edit.learner.seed)
        return edit.finish(folder), remains


def rename(
    run: str | Path, old: str, new: str, *, text: str | None = None, progress: ProgressChoice = "auto"
) -> VersionResult:
    """Rename a class of a run, as ``mmcl-fast rename`` does. Data with the former name still count as this class.

    Example::

        runs.rename("runs/demo", "image/hound", "dog", text="a dog")

    Args:
        run: the run folder.
        old: the class, as ``modality/name``, or the name alone where only one modality has it.
        new: the new name, without the modality.
        text: the class text; None: the new name, with spaces for underscores.
        progress: a display of ``mmcl_fast.progress``; None shows nothing. ``"auto"``: bars in a terminal or notebook.

    Returns:
        The new version.

    Raises:
        UserError: there is no such class, or the new name is taken or a former name of another class.
        RunStopped: as for ``train``; ``learn`` with ``resume`` goes on.
    """
    run = Path(run)
    require_run(run)
    with atomic_files.lock_folder(run):
        edit = _Edit(run, choose_display(progress))
        key = find_class(edit.learner.classes.keys, old)
        renamed = edit.learner.rename(old, new, text=text)
        number = edit.learner.classes.ids[renamed]
        after = renamed_class(edit.learned, key, renamed, edit.learner.classes.texts[number])
        record = edit.record("rename", f"{'/'.join(key)} renamed to {'/'.join(renamed)}", after)
        return edit.finish(edit.write(record, after))


class _Edit:
    """A version that begins with a changed state of its parent, the run's current version."""

    def __init__(self, run: Path, progress: Progress | None):
        self.run, self.progress = run, progress
        remove_leftovers(run)
        self.numbers, self.parent = version_numbers(run), current_version(run)
        check_target(run, None, self.numbers)
        self.base = version_folder(run, self.parent)
        self.config: Config = read_run_config(self.base)
        _, self.values = read_newest(self.base)
        self.learner = load_parent(self.base, self.config, progress)
        self.all_tasks = learned_tasks(self.base, self.config, len(self.values["tasks"]))
        say = progress.log if progress is not None else lambda line: None
        self.learned = testable_tasks(self.all_tasks, self.base, self.learner, say)
        self.before = predictions_before(self.base, self.learned, self.learner, self.config.train.evaluate)

    def record(self, change: str, source: str, after: Stream) -> VersionRecord:
        """Return the record of the version, with its tasks ``after`` the change."""
        aliases = aliases_to_values(self.learner.aliases)
        return VersionRecord(self.parent, now(), source, [], 0, len(after), change=change, aliases=aliases)

    def write(self, record: VersionRecord, after: Stream, removed: ClassId | None = None) -> Path:
        """Write the version's folder with the learner's state, unless everything is to be learned again.

        Args:
            record: of the version.
            after: its tasks.
            removed: the class that is not in them any more.
        """
        untested = [task.name for task in after.tasks if not task.test]
        if untested:
            raise RunError(
                f"{self.run}: task {untested[0]} has test samples of this class alone; remove all its classes"
            )
        learner, config = self.learner, self.config
        folder = next_folder(self.run, self.numbers)
        with new_version_folder(folder) as temporary:
            write_tasks(temporary / KNOWN_TASKS_FILE, after, {}, texts=not config.train.private)
            kept = self.before.select({sample.key for sample in after.samples})
            write_predictions(temporary / BEFORE_FILE, kept)
            if record.change != "retrain":
                learner.calibrate(after.tasks)
                tensors, values = learner.contents()
                values |= {name: self.values.get(name, {}) for name in ("seconds", "counts")}
                checkpoint.write(temporary / "checkpoints" / f"task-{len(after):03d}", tensors, values)
                rows = _RowsWithout(self.all_tasks, removed)
                write_rows(self.base, temporary, len(self.all_tasks), rows.change)
            take_back(learner.cache, self.base / TOKENS_FOLDER)
            if not config.train.private:
                keep_test_tokens(temporary, learner, after, config.train.keep_test_gb)
            write_record(temporary, record)
            settings = {**config.model_dump(mode="json"), "stream_fingerprint": after.fingerprint}
            write_config(temporary, settings, after)
        return folder

    def finish(self, folder: Path) -> VersionResult:
        """Learn what is to be learned again, evaluate the version, and make it the current one."""
        result = train(read_run_config(folder), folder, resume=True, progress=self.progress)
        return VersionResult(folder, result, *finish_version(self.run, folder, result, own_run=False))


def _samples_of(task: Task, key: ClassId) -> list[Sample]:
    """Return the samples of a class in a task."""
    labels = {label for label, own in zip(task.classes, task.class_ids) if own == key}
    return [sample for sample in task.samples if sample.label in labels]


def _require_training_data(base: Path, stream: Stream, learner: Learner) -> None:
    """Check that all training data are there with the contents that were learned.

    Raises:
        UserError: a file or text is gone or has changed.
    """
    samples = [sample for task in with_texts(base, stream).tasks for sample in task.train]
    try:
        digests = learner.cache.contents.digests([replace(sample, sha256="") for sample in samples])
    except MediaError as fault:
        raise RunError(f"{fault}: --retrain learns from all training data; restore it") from None
    for sample, digest in zip(samples, digests):
        if sample.sha256 and digest.hex() != sample.sha256:
            where = sample.path or f"text {sample.key}"
            raise RunError(f"{where}: another content than when it was learned; restore it for --retrain")


class _RowsWithout:
    """Rows of R without a class's answers. The last row is left out: the version is evaluated for it.

    Args:
        before: the parent's tasks.
        removed: the class that is not in them any more; None: all are.
    """

    def __init__(self, before: Stream, removed: ClassId | None):
        self.before, self.removed = before, removed
        self.kept = [n for n, task in enumerate(before.tasks) if any(key != removed for key in task.class_ids)]
        # Number of tasks learned, before -> after.
        self.numbers = {0: 0, **{number + 1: position for position, number in enumerate(self.kept, 1)}}

    def change(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        """Return an event of the parent as the version has it; no event: the version has none."""
        last = len(self.kept)
        if event["event"] == "unknown" and self.removed is not None:
            return []  # it counts samples of several classes together
        if self.numbers.get(event.get("task", event.get("after", 0)), last) == last:
            return []
        for key in ("task", "after"):
            if key in event:
                event[key] = self.numbers[event[key]]
        return [event | self._row(event) if event["event"] == "evaluation" else event]

    def _row(self, event: dict[str, Any]) -> dict[str, Any]:
        """Return the parts of a row of R for the tasks that remain, counted without the class."""
        out: dict[str, list[Any]] = {key: [] for key in ("row", "correct", "count", "by_class") if key in event}
        for number in self.kept:
            task = self.before.tasks[number]
            cells = {key: event[key][number] for key in out}
            gone = [k for k, key in enumerate(task.class_ids) if key == self.removed]
            if gone and cells.get("by_class") is not None:
                tested = sum(sample.split == "test" for sample in _samples_of(task, task.class_ids[gone[0]]))
                cells["correct"] -= cells["by_class"][gone[0]]
                cells["count"] -= tested
                cells["row"] = 100.0 * cells["correct"] / max(cells["count"], 1)
                cells["by_class"] = [right for k, right in enumerate(cells["by_class"]) if k not in gone]
            for key, value in cells.items():
                out[key].append(value)
        return out
