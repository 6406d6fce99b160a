"""The stream of a config's section [stream]: make it, check its files, or report all that is wrong with its data."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcl_fast import distributed
from mmcl_fast.config import read_run_config
from mmcl_fast.errors import ConfigError, RunError, StreamError, UserError
from mmcl_fast.learning.current_version import version_folder
from mmcl_fast.learning.versions import VersionRecord, read_record
from mmcl_fast.runs.folder import SKIPPED, holds_run, read_groups
from mmcl_fast.runs.task_file import KNOWN_TASKS_FILE, read_tasks
from mmcl_fast.streams.broken_samples import read_broken_samples
from mmcl_fast.streams.data_check import DataReport, check_data, check_stream
from mmcl_fast.streams.file_check import require_readable_files, skip_broken_samples
from mmcl_fast.streams.findings import WARNING, Findings, format_findings
from mmcl_fast.streams.grouping import Grouping, like_old, parse_rule
from mmcl_fast.streams.joined import join_streams, tested_classes
from mmcl_fast.streams.sample import SPLITS, ClassId, Sample
from mmcl_fast.streams.sources import known
from mmcl_fast.streams.stream import Stream

if TYPE_CHECKING:
    from mmcl_fast.config import Config

# The options of [stream] that each source reads besides the options of every stream.
SOURCE_OPTIONS = {
    "folder": ("text", "label", "header"),
    "table": ("text", "label", "split", "header"),
    "tar": ("label",),
}


def make_stream(
    config: Config,
    run: Path | None = None,
    *,
    findings: Findings | None = None,
    names: Mapping[str, str] | None = None,
    learned: Stream | None = None,
    aliases: Mapping[ClassId, ClassId] | None = None,
    progress: Any = None,
) -> Stream:
    """Make the stream that a config describes. Media files are opened only where their contents are to be compared.

    Args:
        run: a run folder. Its samples get the groups that it has found. Samples that this run skipped, because they do
            not decode, are left out. In a version that ``learn`` made, the tasks that its parent had learned come
            first.
        findings: collects all that is wrong; None: the most harmful error is raised. See ``Stream``.
        names: sample key -> group, where the groups are found already.
        learned: tasks that a model has learned. Their classes need no test samples, and their groups stay on their
            side. The run folder of a version has them.
        aliases: the former key of a class that was renamed -> its key in ``learned``. A version's folder has them.
        progress: a display of ``mmcl_fast.progress``, for features that are computed; None shows nothing.

    Raises:
        ConfigError: an option is missing or does not fit the source.
        StreamError: the data can't be read as a stream.
        MediaError: a file is broken.
    """
    record = None if run is None else read_record(run)
    if run is not None and record is not None and record.change != "learn":  # it has no tasks but its parent's
        tasks = read_tasks(run / KNOWN_TASKS_FILE)
        return with_texts(run, tasks) if record.change == "retrain" else tasks
    begun = run is not None and (run / "config.json").is_file()
    if run is not None and begun:
        names, learned, aliases = _known_of(run, record)
    tested = set() if learned is None else set(tested_classes(learned))
    tested |= {former for former, now in (aliases or {}).items() if now in tested}
    stream = _read_source(config, findings, _grouping(config, names, learned, progress), tested)
    if run is None or not begun:
        return stream
    if (run / SKIPPED).is_file():
        stream = stream.without_broken(read_broken_samples(run / SKIPPED))
    return stream if learned is None else join_streams(learned, stream, record.prefix if record else "", aliases)


def _known_of(run: Path, record: VersionRecord | None) -> tuple[dict[str, str], Stream | None, dict[ClassId, ClassId]]:
    """Return what a run folder knows of its stream: groups, the tasks that its parent had learned, and aliases.

    Raises:
        RunError: one of these files is damaged.
    """
    file = run / KNOWN_TASKS_FILE
    aliases = {} if record is None else record.class_aliases
    return read_groups(run), read_tasks(file) if file.is_file() else None, aliases


def with_texts(run: Path, stream: Stream) -> Stream:
    """Return the tasks of a run's tasks.json.gz with the texts that it does not keep, read again from their sources.

    Args:
        run: the folder of the version that learned the tasks.
        stream: the tasks.

    Raises:
        UserError: a text, or the version that learned it, is gone.
    """
    missing = {sample.key for sample in stream.samples if sample.path is None and not sample.text}
    texts: dict[str, str] = {}
    folder: Path | None = run
    while folder is not None and not missing <= texts.keys():
        record = read_record(folder)
        if record is None or record.change == "learn":
            prefix = "" if record is None else record.prefix
            names, learned, aliases = _known_of(folder, record)
            source = make_stream(read_run_config(folder), names=names, learned=learned, aliases=aliases)
            texts |= {prefix + sample.key: sample.text for sample in source.samples if sample.text is not None}
        folder = None if record is None else _parent_folder(folder, record)
    gone = sorted(missing - texts.keys())
    if gone:
        raise StreamError(f"{run}: the text {gone[0]} ({len(gone)} in all) is gone from its source; restore it")
    tasks = [
        replace(task, _samples=tuple(replace(s, text=texts[s.key]) if s.key in missing else s for s in task.samples))
        for task in stream.tasks
    ]
    return Stream.from_tasks(tasks, stream.root, shared_classes=stream.shared_classes)


def _parent_folder(run: Path, record: VersionRecord) -> Path:
    """Return the folder of a version's parent. Raises RunError where it is gone."""
    home = Path(record.parent_run) if record.parent_run else run.parent.parent
    folder = home if record.parent is None else version_folder(home, record.parent)
    if not (folder / "config.json").is_file():
        raise RunError(f"{folder}: gone, but {run} was learned from it, so its training data are not known any more")
    return folder


def check_stream_files(config: Config, stream: Stream, *, progress: Any = None) -> Stream:
    """Decode every file of the stream, if the config asks for that with ``stream.check``.

    Returns:
        The stream to learn. With ``stream.on_broken = "skip"`` the samples that do not decode are left out.

    Raises:
        MediaError: a file does not decode, and ``stream.on_broken = "error"``.
        StreamError: too little remains of a class, or two splits hold equal content.
    """
    if not config.stream.check:
        return stream
    workers, settings = config.train.workers, config.media.model_dump()
    if config.stream.on_broken == "skip":
        return skip_broken_samples(stream, workers=workers, progress=progress, settings=settings)
    require_readable_files(stream, workers=workers, progress=progress, settings=settings)
    return stream


def prepare_stream(config: Config, run: Path, *, resume: bool = False, progress: Any = None) -> Stream:
    """Make the stream for a run and, if the run is new, log the warnings about its data and check its files.

    Several processes call this together. One of them checks the files, and all return the same stream.

    Raises:
        RunError: ``run`` holds something else, or a run and ``resume`` is False.
        UserError: what ``make_stream`` and ``check_stream_files`` raise.
    """
    with distributed.propagate_errors():
        has_begun = holds_run(run, resume)
        # One process looks for groups: the others would read the same files again, and might round otherwise.
        stream = None
        if has_begun or distributed.is_main_process():
            stream = make_stream(config, run if has_begun else None, progress=progress)
    names = distributed.broadcast_object(None if stream is None else stream.groups)
    with distributed.propagate_errors():
        stream = make_stream(config, names=names) if stream is None else stream
        if not has_begun:
            rest = "mmcl-fast data check lists them"
            lines = [*format_findings(stream.findings, [WARNING], rest=rest), *(held.line for held in stream.held_out)]
            for line in lines if progress is not None else ():
                progress.log(line)
            if distributed.is_main_process():
                stream = check_stream_files(config, stream, progress=progress)
    skipped = distributed.broadcast_object(stream.skipped)
    return stream.without_broken(skipped) if skipped and not stream.skipped else stream


def check_source(
    source: str,
    overrides: Sequence[str] = (),
    *,
    group: str = "",
    similar: bool = False,
    workers: int = 2,
    progress: Any = None,
) -> DataReport:
    """Read data, decode every file, and report all that is wrong.

    Args:
        source: a config (.toml), whose [stream] is checked with its [media], or a path as in ``streams.check_data``.
        overrides: ``KEY=VALUE`` for keys of the config.
        group: a rule as for ``stream.group``; empty: the config's.
        similar: also look for content that resembles other content, as the rule ``duplicates`` does.
        workers, progress: as in ``streams.check_files``.

    Raises:
        UserError: there is nothing at ``source``, or the config is wrong. Everything else is in the report.
    """
    if source.endswith(".toml"):
        from mmcl_fast.config import load_config

        # Broken files stay in the stream, so that the check itself can report each of them.
        config = load_config(source, [*overrides, "stream.check=true", "stream.on_broken=skip"])
        if group:
            config = config.model_copy(update={"stream": config.stream.model_copy(update={"group": group})})
        grouping = _grouping(config, None, None, progress, similar=similar)
        return check_stream(
            lambda findings: _read_source(config, findings, grouping, ()),
            workers=workers,
            progress=progress,
            settings=config.media.model_dump(),
        )
    if overrides:
        raise UserError(f"--set {overrides[0]}: {source} is no config (.toml)")
    find_similar = None
    if similar or parse_rule(group).kind == "duplicates":
        from mmcl_fast.config import build_config
        from mmcl_fast.runs.similar_samples import similar_finder

        find_similar = similar_finder(build_config({}), progress)
    rule = parse_rule(group)
    return check_data(
        source,
        grouping=Grouping(rule, equal_content=True, find_similar=find_similar),
        workers=workers,
        progress=progress,
    )


def _grouping(
    config: Config, names: Mapping[str, str] | None, learned: Stream | None, progress: Any, *, similar: bool = False
) -> Grouping:
    """Return the way in which a config finds groups. ``similar``: also look for content that resembles other content.

    Raises:
        ConfigError: ``stream.group`` is wrong, or the source has no columns.
    """
    s = config.stream
    rule = parse_rule(s.group)
    if rule.column and s.source not in ("table", "manifest", "demo"):
        raise ConfigError(
            f'stream.group: {s.group!r} reads a column of a table or manifest, and source = "{s.source}" has none; '
            "give regex:PATTERN over paths, or duplicates"
        )
    find_similar = None
    if (similar or rule.kind == "duplicates") and names is None:
        from mmcl_fast.runs.similar_samples import similar_finder

        find_similar = similar_finder(config, progress)
    sides: dict[str, str] = {}
    known: Sequence[Sample] = ()
    if learned is not None and rule.kind:
        known = sorted(learned.samples, key=lambda x: SPLITS.index(x.split))
        if rule.kind == "duplicates":
            sides = {like_old(sample): sample.split for sample in known}
        else:
            sides, known = {sample.group: sample.split for sample in known if sample.group}, ()
    return Grouping(rule, s.check, find_similar, names, sides, known)


def _read_source(config: Config, findings: Findings | None, grouping: Grouping, tested: Collection[ClassId]) -> Stream:
    s = config.stream
    options = {
        "grouping": grouping,
        "known": sorted(tested),
        "findings": findings,
        "classes_per_task": s.classes_per_task,
        "order": s.order,
        "seed": s.seed,
        "modalities": s.modalities,
        "late": s.late,
        "share": s.share,
        "max_train_per_class": s.max_train_per_class,
        "shuffle_classes": s.shuffle_classes,
        "classes_together": s.classes_together,
        "shared_classes": s.shared_classes,
        "validation": s.validation,
        "test_on": s.test_on,
        # Broken files are often equal to each other, so skip_broken_samples compares contents after removing them.
        "check": s.check and s.on_broken == "error",
        "keep_empty": s.on_broken == "skip",
    }
    for name in ("text", "label", "split", "header"):
        if name not in SOURCE_OPTIONS.get(s.source, ()) and getattr(s, name) != type(s).model_fields[name].default:
            raise ConfigError(f"stream.{name}: not read where source = {s.source!r}; remove it")
    if s.source != "known" and s.datasets != type(s.datasets)():
        raise ConfigError(f'stream.datasets: for source = "known", not {s.source!r}; remove it or set the source')
    if isinstance(s.path, dict) and s.source != "tar":
        raise ConfigError(f'stream.path: a table of splits is for source = "tar", not {s.source!r}; give one path')
    if s.source == "demo" and not isinstance(s.path, dict):
        return Stream.demo(s.path, **options)
    if s.source == "known":
        if s.path is not None:
            raise ConfigError('stream.path: not read where source = "known"; give stream.datasets.<modality>.path')
        datasets = known.datasets_from_config(s.datasets.model_dump(), config.media.depth_kind)
        return Stream.from_known(datasets, **options)
    if s.path is None:
        raise ConfigError(f"stream.path: missing; source = {s.source!r} needs the path of its {s.source}")
    options |= {name: getattr(s, name) for name in SOURCE_OPTIONS.get(s.source, ())}
    return getattr(Stream, f"from_{s.source}")(s.path, **options)
