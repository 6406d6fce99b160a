"""The result of one check, and what several checks share."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version


@dataclass(frozen=True)
class CheckResult:
    """One thing that was checked; its attributes are the keys of ``mmcl-fast doctor --json``.

    Attributes:
        name: the thing.
        state: ``ok``; ``missing``: absent and optional; ``broken``: there but unusable, or needed and absent.
        about: what was found.
        mend: what to do; empty when nothing needs doing.
        core: nothing works without it.
    """

    name: str
    state: str
    about: str
    mend: str = ""
    core: bool = False


def one_line(error: BaseException) -> str:
    """Return an error's message on one line of at most 200 characters."""
    return " ".join(str(error).split())[:200]


def installed_version(package: str) -> str | None:
    """Return the version of an installed distribution, else None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def first_output_line(command: list[str]) -> str:
    """Return the first line that a command prints, or "" where it is missing or fails."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (subprocess.SubprocessError, OSError):
        return ""
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else ""
