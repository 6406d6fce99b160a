"""The pointer current.json to the current version of a run, and the folders under versions/."""

from __future__ import annotations

import json
from pathlib import Path

from mmcl_fast.errors import RunError

POINTER = "current.json"
VERSIONS = "versions"


def version_folder(run: Path, number: int) -> Path:
    """Return the folder of a version: the run folder itself for version 1, else a folder under ``versions``."""
    return run if number == 1 else run / VERSIONS / str(number)


def current_version(run: Path) -> int:
    """Return the number of the run's current version, 1 where nothing was learned after training.

    Raises:
        RunError: the pointer is damaged, or its version is gone.
    """
    file = run / POINTER
    if not file.is_file():
        return 1
    advice = "choose a version with mmcl-fast rollback"
    try:
        number = json.loads(file.read_text())["version"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as fault:
        raise RunError(f"{file}: not readable ({fault}); {advice}") from None
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise RunError(f"{file}: names no version; {advice}")
    if not version_folder(run, number).is_dir():
        raise RunError(f"{file}: names version {number}, which is gone; {advice}")
    return number


def current_folder(folder: str | Path) -> Path:
    """Return the folder of a run's current version; a folder without versions is returned as it is.

    Raises:
        RunError: the pointer is damaged, or its version is gone.
    """
    folder = Path(folder)
    return version_folder(folder, current_version(folder))
