"""Change the versions of a run: write a version's record, choose the current one, go back, and remove versions.

A version needs no other version's files, so any of them may be removed. ``mmcl_fast.learning.versions`` reads them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mmcl_fast import atomic_files
from mmcl_fast.errors import RunError
from mmcl_fast.learning import checkpoint
from mmcl_fast.learning.current_version import POINTER, VERSIONS, current_version, version_folder
from mmcl_fast.learning.versions import (
    VERSION_FILE,
    Version,
    VersionRecord,
    is_finished,
    read_record,
    read_version,
    require_run,
    require_version,
    resume_command,
    version_numbers,
    version_or_damage,
)

GONE = ".gone-"  # begins the name of a version folder that is being removed
FIRST_STAYS = (VERSIONS, POINTER, atomic_files.LOCK, "config.json", "environment.json")  # where version 1 is removed


def now() -> str:
    """Return the time in UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).replace(microsecond=0).isoformat()


def write_record(folder: Path, record: VersionRecord) -> None:
    """Write version.json. Raises RunError where it cannot be written."""
    atomic_files.write_json(folder / VERSION_FILE, asdict(record))


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
    return [version_or_damage(run, number) for number in chosen]


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
