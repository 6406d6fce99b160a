"""The versions of a run, as its folder has them: what each learned, and how it did.

Version 1 is the run folder as ``mmcl-fast train`` wrote it. ``mmcl-fast learn`` adds a run folder under
``versions`` for each later one. ``mmcl_fast.runs.versions`` changes them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mmcl_fast.atomic_files import read_json_object
from mmcl_fast.errors import RunError
from mmcl_fast.learning.current_version import POINTER, VERSIONS, version_folder
from mmcl_fast.streams.sample import ClassId, aliases_from_values

VERSION_FILE = "version.json"


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


def run_of(folder: Path) -> Path | None:
    """Return the run that a run folder, or the folder of one of its versions, belongs to; None: it is neither."""
    if not (folder / "config.json").is_file():
        return None
    home = folder.resolve()
    inside = home.parent.name == VERSIONS and (home.parents[1] / "config.json").is_file()
    return home.parents[1] if inside else folder


def require_run(run: Path) -> None:
    """Check that a folder is a run folder and not one of its versions.

    Raises:
        RunError: it is not.
    """
    home = run_of(run)
    if home is None:
        raise RunError(f"{run}: no config.json, so it is no run folder; give a folder of mmcl-fast train")
    if home != run:
        raise RunError(f"{run}: a version of {home}; give that run folder")


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
    return [version_or_damage(run, number) for number in version_numbers(run)]


def version_or_damage(run: Path, number: int) -> Version:
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
