"""The versions of a run: what each learned, which one is current, and going back.

Version 1 is the run folder as ``mmcl-fast train`` wrote it. ``mmcl-fast learn`` adds a run folder under
``versions`` for each later one. A version needs no other version's files, so any of them may be removed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mmcl_fast import atomic_files
from mmcl_fast.config.run_config import read_json_object
from mmcl_fast.errors import RunError
from mmcl_fast.learning import checkpoint
from mmcl_fast.learning.current_version import POINTER, VERSIONS, current_version, version_folder
from mmcl_fast.streams.sample import ClassId, aliases_from_values

VERSION_FILE = "version.json"
GONE = ".gone-"  # begins the name of a version folder that is being removed
FIRST_STAYS = (VERSIONS, POINTER, atomic_files.LOCK, "config.json", "environment.json")  # where version 1 is removed


@dataclass(frozen=True)
class Version:
    """A version of a run.

    Attributes:
        number: from 1.
        folder: its run folder.
        parent: number of the version that it was learned from; None: it was trained from nothing, or from another run.
        created: when learning it began, in UTC, as ISO 8601.
        source: the data that it learned.
        tasks: names of the tasks that it learned.
        samples: number of training samples that it learned.
        sha256: over the contents of these samples; empty: unknown.
        finished: all of its tasks are learned and evaluated.
        refused: why the pointer did not move to it; empty: it was not refused.
        last: mean accuracy after its last task, in %, in its first setting; None: unknown.
        size: bytes of its folder, without the folders of other versions.
    """

    number: int
    folder: Path
    parent: int | None
    created: str
    source: str
    tasks: list[str]
    samples: int
    sha256: str = ""
    finished: bool = False
    refused: str = ""
    last: float | None = None
    size: int = 0


@dataclass(frozen=True)
class VersionRecord:
    """The values of version.json; the fields are as in :class:`Version`.

    Attributes:
        learned_before: number of tasks that the parent had learned.
        parent_run: the run folder of the parent where it is another run; empty: the same run.
        prefix: begins the keys of the samples that it learned, so that no other version has the same ones.
        max_drop: the largest fall in points that the pointer accepts; None: any.
        comparison: its answers beside the parent's, as ``comparison.Comparison.values`` gives them.
        change: ``learn``: new data. ``remove``: a class was taken out of the state. ``retrain``: all tasks were learned
            again without a class. ``rename``: a class has another name.
        aliases: pairs of the former and the present key of each renamed class.
    """

    parent: int | None
    created: str
    source: str
    tasks: list[str]
    samples: int
    learned_before: int
    parent_run: str = ""
    sha256: str = ""
    prefix: str = ""
    max_drop: float | None = None
    refused: str = ""
    comparison: dict[str, Any] = field(default_factory=dict)
    change: str = "learn"
    aliases: list[list[list[str]]] = field(default_factory=list)

    @property
    def class_aliases(self) -> dict[ClassId, ClassId]:
        """The former key of each renamed class -> its key of today."""
        return aliases_from_values(self.aliases)


def now() -> str:
    """Return the time in UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).replace(microsecond=0).isoformat()


def write_record(folder: Path, record: VersionRecord) -> None:
    """Write version.json. Raises RunError where it cannot be written."""
    atomic_files.write_json(folder / VERSION_FILE, asdict(record))


def read_record(folder: Path) -> VersionRecord | None:
    """Read version.json; None where there is none, as in a run that was trained from nothing.

    Raises:
        RunError: the file is damaged.
    """
    file, advice = folder / VERSION_FILE, "restore it from a copy, or remove the version with mmcl-fast prune"
    values = read_json_object(file, advice)
    if values is None:
        return None
    try:
        record = VersionRecord(**values)
    except TypeError as fault:
        raise RunError(f"{file}: not the record of a version ({fault}); {advice}") from None
    if not isinstance(record.tasks, list) or not isinstance(record.learned_before, int):
        raise RunError(f"{file}: not the record of a version; {advice}")
    return record


def require_run(run: Path) -> None:
    """Check that a folder is a run folder and not one of its versions.

    Raises:
        RunError: it is not.
    """
    if not (run / "config.json").is_file():
        raise RunError(f"{run}: no config.json, so it is no run folder; give a folder of mmcl-fast train")
    if run.resolve().parent.name == VERSIONS and (run.resolve().parents[1] / "config.json").is_file():
        raise RunError(f"{run}: a version of {run.resolve().parents[1]}; give that run folder")


def version_numbers(run: Path) -> list[int]:
    """Return the numbers of a run's versions, oldest first."""
    folders = (run / VERSIONS).iterdir() if (run / VERSIONS).is_dir() else ()
    first = [] if first_is_removed(run) else [1]
    return [*first, *sorted(int(f.name) for f in folders if f.is_dir() and f.name.isdecimal() and f.name.isascii())]


def first_is_removed(run: Path) -> bool:
    """Return whether version 1 of a run was pruned."""
    return (run / POINTER).is_file() and not (run / "checkpoints").is_dir()


def list_versions(run: str | Path) -> list[Version]:
    """Return the versions of a run, oldest first. Of a damaged one ``refused`` says what is wrong.

    Example::

        [(v.number, v.source, v.last) for v in runs.list_versions("runs/demo")]

    Raises:
        RunError: ``run`` is no run folder.
    """
    run = Path(run)
    require_run(run)
    return [_version_or_damage(run, number) for number in version_numbers(run)]


def _version_or_damage(run: Path, number: int) -> Version:
    """Return a version; of a damaged one what can be said."""
    try:
        return read_version(run, number)
    except RunError as fault:
        folder = version_folder(run, number)
        return Version(number, folder, None, "?", "?", [], 0, refused=f"damaged: {fault}", size=folder_size(folder))


def read_version(run: Path, number: int) -> Version:
    """Read one version of a run. Raises RunError where it is missing or damaged."""
    folder = require_version(run, number)
    record = read_record(folder)
    summary = read_json_object(folder / "summary.json", "run mmcl-fast learn again to write it")
    tasks = [] if summary is None else summary.get("tasks", [])
    if record is None:
        config = read_json_object(folder / "config.json", "restore it from a copy") or {}
        stream = config.get("stream", {})
        created = datetime.fromtimestamp((folder / "config.json").stat().st_mtime, UTC)
        record = VersionRecord(
            None,
            created.replace(microsecond=0).isoformat(),
            str(stream.get("path") or stream.get("source", "?")),
            [task["name"] for task in tasks],
            sum(task["train"] for task in tasks),
            0,
        )
    first = next(iter(summary["settings"].values()), None) if summary else None
    return Version(
        number,
        folder,
        record.parent,
        record.created,
        record.source,
        record.tasks,
        record.samples,
        record.sha256,
        is_finished(folder),
        record.refused,
        None if first is None else first["metrics"]["last"],
        folder_size(folder),
    )


def is_finished(folder: Path) -> bool:
    """Return whether a version is learned, evaluated and, if it has a parent, compared with it."""
    record = read_record(folder)
    return (folder / "summary.json").is_file() and (record is None or bool(record.comparison))


def resume_command(run: Path, number: int) -> str:
    """Return the command that goes on with an unfinished version of a run."""
    trained = number == 1 and read_record(run) is None
    return f"mmcl-fast train --resume {run}" if trained else f"mmcl-fast learn {run} --resume"


def require_version(run: Path, number: int) -> Path:
    """Return the folder of a version. Raises RunError where there is none."""
    known = version_numbers(run)
    if number not in known:
        raise RunError(f"{run}: no version {number}; it has {', '.join(map(str, known))}")
    return version_folder(run, number)


def set_current(run: Path, number: int) -> None:
    """Move the pointer to a version that is finished and whole. Readers find the old version or the new one.

    Version 1 may be unfinished, because a run that was stopped can learn more.

    Raises:
        RunError: there is no such version, it is not finished, its newest checkpoint is damaged, or the pointer
            cannot be written.
    """
    folder = require_version(run, number)
    if not is_finished(folder) and number != 1:
        raise RunError(f"{folder}: not finished; go on with: {resume_command(run, number)}")
    move_pointer(run, number)


def move_pointer(run: Path, number: int) -> None:
    """Move the pointer to a version whose newest checkpoint is whole. Raises RunError."""
    read_newest(version_folder(run, number))
    atomic_files.write_json(run / POINTER, {"version": number})


def read_newest(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return the newest checkpoint of a version and its JSON values, after a check of its checksums.

    An older checkpoint is no substitute: the tasks after it would be lost without a word.

    Raises:
        RunError: there is none, or it is damaged.
    """
    found = checkpoint.find_task_checkpoints(folder)
    if not found:
        raise RunError(f"{folder}: no finished task in it; go on with mmcl-fast train --resume {folder}")
    return found[-1][1], checkpoint.read(found[-1][1])[1]


def rollback(run: str | Path, to: int | None = None) -> Version:
    """Make another version the current one. Nothing is removed, so it can be undone in the same way.

    Args:
        run: the run folder.
        to: the version; None: the parent of the current one.

    Returns:
        The version that is current now.

    Raises:
        RunError: there is no such version, or it is not finished or damaged. The pointer is then as it was.
    """
    run = Path(run)
    require_run(run)
    with atomic_files.lock_folder(run):
        if to is None:
            current = current_version(run)
            record = read_record(version_folder(run, current))
            to = None if record is None else record.parent
            if to is None:
                raise RunError(f"{run}: version {current} has no parent here; name a version with --to")
        set_current(run, to)
        return read_version(run, to)


def prunable(run: Path, keep: int | None, numbers: Sequence[int] | None, only_current: bool = False) -> list[Version]:
    """Return the versions that ``prune`` would remove. Raises RunError for a version that has to stay."""
    current = current_version(run)
    known = [number for number in version_numbers(run) if number != current and (only_current or number != 1)]
    if numbers is None:
        chosen = known[: max(len(known) - (keep or 0), 0)]
    else:
        for number in numbers:
            require_version(run, number)
            if number == current:
                raise RunError(f"{run}: version {number} is the current one; choose another with mmcl-fast rollback")
        chosen = sorted(set(numbers))
    return [_version_or_damage(run, number) for number in chosen]


def prune(
    run: str | Path, *, keep: int | None = None, numbers: Sequence[int] | None = None, only_current: bool = False
) -> list[Version]:
    """Remove versions. The current one always stays.

    Children of a removed version stay whole: no version needs another version's files.

    Args:
        run: the run folder.
        keep: how many of the newest other versions stay; None: none.
        numbers: remove these versions and no others.
        only_current: remove all others, version 1 too. The run folder stays, for the current one.

    Returns:
        The versions that were removed.

    Raises:
        RunError: a version does not exist or has to stay; then nothing is removed.
    """
    run = Path(run)
    require_run(run)
    with atomic_files.lock_folder(run):
        chosen = prunable(run, keep, numbers, only_current)
        for version in chosen:
            if version.number == 1:
                _empty_first(run)
                continue
            # Renamed first, so that no reader finds half a version.
            gone = version.folder.with_name(f"{GONE}{version.number}")
            with atomic_files.explain_write_errors(version.folder):
                os.rename(version.folder, gone)
        remove_leftovers(run)
    return chosen


def _empty_first(run: Path) -> None:
    """Remove version 1: all files of the run folder but the ones that make it a run with versions."""
    shutil.rmtree(run / "checkpoints", ignore_errors=True)  # first: without them it counts as removed
    for entry in list(run.iterdir()):
        if entry.name in FIRST_STAYS:
            continue
        with atomic_files.explain_write_errors(entry):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def remove_leftovers(run: Path) -> None:
    """Remove what a stopped ``prune`` or ``learn`` left. The caller holds the run's lock."""
    for folder in (run / VERSIONS).glob(".*") if (run / VERSIONS).is_dir() else ():
        shutil.rmtree(folder, ignore_errors=True)


def folder_size(folder: Path) -> int:
    """Return the bytes of a version's files, without the folders of other versions."""
    return sum(_sizes(folder))


def _sizes(folder: Path) -> Iterable[int]:
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            if entry.name != VERSIONS:
                yield from _sizes(Path(entry.path))
        else:
            yield entry.stat(follow_symlinks=False).st_size
