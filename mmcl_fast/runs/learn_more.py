"""Teach a run more: new data become a new version of it, which is compared with the version before.

A version is a run folder that begins where its parent ended: with the parent's checkpoint, its rows of R, and the list
of its tasks. So learning more comes to the same state as one run over all tasks.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmcl_fast import atomic_files, distributed
from mmcl_fast.config import Config, load_config, read_run_config
from mmcl_fast.config.loading import SHIPPED, apply_overrides, build_config, make_paths_absolute
from mmcl_fast.errors import ConfigError, RunError
from mmcl_fast.feature_cache.kept_tokens import link
from mmcl_fast.learning.comparison import Comparison, compare_predictions
from mmcl_fast.learning.current_version import current_version, version_folder
from mmcl_fast.learning.predictions import Predictions
from mmcl_fast.learning.versions import (
    VersionRecord,
    is_finished,
    read_record,
    require_run,
    require_version,
    version_numbers,
)
from mmcl_fast.methods import method_class
from mmcl_fast.progress import Progress, ProgressChoice, choose_display
from mmcl_fast.runs.before_learning import RowsBefore
from mmcl_fast.runs.folder import first_difference, write_config
from mmcl_fast.runs.kept_test_tokens import copy_test_tokens, testable_tasks
from mmcl_fast.runs.make_stream import check_stream_files, make_stream
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
from mmcl_fast.runs.prediction_file import PREDICTIONS_FILE, read_predictions, write_predictions
from mmcl_fast.runs.task_file import KNOWN_TASKS_FILE, content_digests, write_tasks
from mmcl_fast.runs.training import train
from mmcl_fast.runs.versions import now, read_newest, remove_leftovers, write_record
from mmcl_fast.streams.class_edits import require_one_name
from mmcl_fast.streams.findings import WARNING, format_findings
from mmcl_fast.streams.joined import find_similar_to_old, join_streams, require_unseen_content, require_unseen_groups
from mmcl_fast.streams.sample import ClassId, aliases_to_values
from mmcl_fast.streams.sources.detect import detect_source

# Keys of [stream] that new data take from the run, unless a config or an override says otherwise.
INHERITED = ("shared_classes", "test_on", "check", "on_broken", "seed", "group", "group_similarity")


def learn(
    run: str | Path,
    data: str | Path | None = None,
    *,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    max_drop: float | None = None,
    resume: bool = False,
    progress: ProgressChoice = "auto",
) -> VersionResult:
    """Teach a run more, as ``mmcl-fast learn`` does: new classes, more samples of known ones, or new modalities.

    The run gets a new version, which becomes the current one once it is learned, evaluated and compared. Whatever goes
    wrong before leaves the current version as it was. Several processes (``mmcl_fast.distributed``) learn together.

    Example::

        result = runs.learn("runs/demo", "new_classes/", max_drop=1.0)
        result.comparison.differences[0].fall  # points lost over all old tasks

    Args:
        run: the run folder. An unfinished run learns from the tasks that it has learned.
        data: a folder, manifest, table or tars, a config whose [stream] is read, or the name of a shipped config.
        out: write a run folder of its own instead of a version in ``run``.
        overrides: ``KEY=VALUE`` for keys of [stream], and for keys that do not change what is learned.
        max_drop: the largest fall, in points, of any old task, modality or class. If a fall is larger and clear of
            chance, the version is kept, but it does not become the current one.
        resume: go on with the version that was stopped, without ``data``.
        progress: a display of ``mmcl_fast.progress``; None shows nothing. ``"auto"``: bars in a terminal or notebook.

    Raises:
        UserError: a wrong run, config or file, or data that overlap with old test samples.
        RunStopped: as for ``train``.
    """
    run, progress = Path(run), choose_display(progress)
    require_run(run)
    if max_drop is not None and not 0 <= max_drop <= 100:
        raise ConfigError(f"max_drop = {max_drop}: give points from 0 to 100")
    if resume == (data is not None):
        raise ConfigError("give the data to learn, or resume without data to go on with a version that was stopped")
    target, main = None if out is None else Path(out), distributed.is_main_process()
    begun: Path | None = None
    with ExitStack() as stack:
        with distributed.propagate_errors():
            if main:
                stack.enter_context(atomic_files.lock_folder(run))
                with distributed.single_process():  # the others wait
                    begun = (
                        _unfinished(run, target, max_drop)
                        if resume
                        else _begin(run, str(data), target, overrides, max_drop, progress)
                    )
        folder = Path(distributed.broadcast_object(str(begun)))
        config = read_run_config(folder, overrides if resume else ())
        result = train(config, folder, resume=True, progress=progress)
        outcome: list[Any] = []
        with distributed.propagate_errors():
            if main:
                outcome = [*finish_version(run, folder, result, own_run=target is not None)]
        return VersionResult(folder, result, *distributed.broadcast_object(outcome))


def _unfinished(run: Path, out: Path | None, max_drop: float | None) -> Path:
    """Return the folder of the version that was stopped; ``max_drop`` replaces its limit unless it is None."""
    folders = [out] if out is not None else [version_folder(run, n) for n in reversed(version_numbers(run)) if n > 1]
    for folder in folders:
        record = read_record(folder) if (folder / "config.json").is_file() else None
        if record is not None and not is_finished(folder):
            if max_drop is not None:
                write_record(folder, replace(record, max_drop=max_drop))
            return folder
    raise RunError(f"{out or run}: no unfinished version to go on with; give the data to learn")


def _begin(
    run: Path, data: str, out: Path | None, overrides: Sequence[str], max_drop: float | None, progress: Progress | None
) -> Path:
    """Check everything, and write the folder of a version that has learned what its parent had."""
    remove_leftovers(run)
    numbers, parent = version_numbers(run), current_version(run)
    base = version_folder(run, parent)
    check_target(run, out, numbers)
    old_config = read_run_config(base)
    if method_class(old_config.method.name).needs_all_tasks:
        raise RunError(
            f"{run}: method {old_config.method.name} needs the data of all tasks; train a new run on all of them"
        )
    config = _new_config(old_config, data, overrides)
    newest, values = read_newest(base)
    learner = load_parent(base, config, progress)
    say = progress.log if progress is not None else lambda line: None
    learned = testable_tasks(learned_tasks(base, old_config, len(values["tasks"])), base, learner, say)
    new = make_stream(config, learned=learned, aliases=learner.aliases, progress=progress)
    require_one_name(new.tasks, learner.aliases)
    for key in dict.fromkeys(key for task in new.tasks for key in task.class_ids if key in learner.aliases):
        say(f"class {'/'.join(key)} of the new data counts as {'/'.join(learner.aliases[key])}: it was renamed")
    for line in format_findings(new.findings, [WARNING], rest="mmcl-fast data check lists them"):
        say(line)
    for held_out in new.held_out:
        say(held_out.line)
    if similar := find_similar_to_old(learned, new):
        sample, old = similar[0]
        say(
            f"{len(similar)} new samples resemble old ones of another split, so accuracies say too much, for example "
            f"{sample.key} ({sample.split}) and {old.path or old.key} ({old.split}): leave them out of the new data"
        )
    if config.stream.group.startswith(("column:", "regex:")):
        require_unseen_groups(learned, new)
    if config.stream.check:
        contents = [content_digests(learner.cache, stream.samples) for stream in (learned, new)]
        require_unseen_content(learned, new, *contents)
    new = check_stream_files(config, new, progress=progress)

    folder = out if out is not None else next_folder(run, numbers)
    prefix = _key_prefix(run if out is None else folder, folder.name, data)
    stream = join_streams(learned, new, prefix, learner.aliases)
    record = VersionRecord(
        None if out is not None else parent,
        now(),
        str(config.stream.path or config.stream.source),
        [task.name for task in stream.tasks[len(learned) :]],
        sum(len(task.train) for task in new.tasks),
        len(learned),
        str(run.resolve()) if out is not None else "",
        prefix=prefix,
        max_drop=max_drop,
        aliases=aliases_to_values(learner.aliases),
    )
    before = predictions_before(base, learned, learner, config.train.evaluate)
    rows = RowsBefore(learner, len(learned), stream, config, before)
    with new_version_folder(folder) as temporary:
        write_tasks(temporary / KNOWN_TASKS_FILE, learned, {}, texts=not config.train.private)
        write_rows(base, temporary, len(learned), rows.change)
        write_predictions(temporary / BEFORE_FILE, before)
        shutil.copytree(newest, temporary / "checkpoints" / newest.name, copy_function=link)
        copy_test_tokens(base, temporary)
        write_record(temporary, record)
        settings = {**config.model_dump(mode="json"), "stream_fingerprint": stream.fingerprint}
        write_config(temporary, settings, new)
    return folder


def _key_prefix(run: Path, name: str, data: str) -> str:
    """Return what begins the keys of a version's samples. Other versions, and other runs, have another one."""
    return hashlib.sha256(f"{run.resolve()}\n{name}\n{data}".encode(errors="surrogatepass")).hexdigest()[:8] + "/"


def _new_config(old: Config, data: str, overrides: Sequence[str]) -> Config:
    """Return the run's config with the new data as its [stream].

    Raises:
        ConfigError: an override would change what is learned.
        StreamError: there is nothing at ``data``.
    """
    values = old.model_dump(mode="json")
    if data.endswith(".toml") or data in {file.stem for file in SHIPPED.glob("*.toml")}:
        values["stream"] = load_config(data).stream.model_dump(mode="json")
    else:
        inherited = {key: values["stream"][key] for key in INHERITED}
        read = {"source": detect_source(data), "path": os.path.abspath(data), "validation": "auto"}
        values["stream"] = {**inherited, **read}
    origin = apply_overrides(values, overrides)
    make_paths_absolute(values, Path.cwd(), data, origin)
    config = build_config(values, data, origin)
    before, after = (c.model_dump(mode="json", exclude={"stream"}) for c in (old, config))
    difference = first_difference(before, after)
    if difference:
        raise ConfigError(f"--set: {difference}; a run learns on with the settings that it began with")
    return config


def compare_versions(run: str | Path, before: int, after: int, setting: str | None = None) -> Comparison:
    """Compare two versions of a run on the test samples that both know, as ``mmcl-fast diff`` does.

    Args:
        run: the run folder.
        before: number of the first version.
        after: number of the second version.
        setting: the setting to compare; None: the first one that both have.

    Raises:
        RunError: a version is missing, unfinished or damaged, or the two have nothing in common.
    """
    run = Path(run)
    require_run(run)
    found: list[Predictions] = []
    aliases: list[dict[ClassId, ClassId]] = []
    for number in (before, after):
        folder = require_version(run, number)
        predictions = read_predictions(folder)
        if predictions is None:
            raise RunError(f"{folder}: no {PREDICTIONS_FILE}, so the version is not finished; resume it first")
        found.append(predictions)
        record = read_record(folder)
        aliases.append({} if record is None else record.class_aliases)
    # A version knows the names of the versions that it comes from. Where one of its classes has such a former name, the
    # class that had it was removed, and this one is another.
    if after not in _ancestors(run, before):
        found[0] = found[0].renamed(aliases[1])
    if before not in _ancestors(run, after):
        found[1] = found[1].renamed(aliases[0])
    tasks: list[Any] = json.loads((version_folder(run, after) / "summary.json").read_text())["tasks"]
    return compare_predictions(found[0], found[1], [(task["name"], task["modality"]) for task in tasks], setting)


def _ancestors(run: Path, number: int) -> list[int]:
    """Return the versions that a version was learned from, as far as they are there."""
    known, out = version_numbers(run), []
    while number in known:
        record = read_record(version_folder(run, number))
        if record is None or record.parent is None:
            break
        number = record.parent
        out.append(number)
    return out
