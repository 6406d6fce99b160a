"""The user's cache folder, for what can be computed again: trunk outputs and indexes of tar files."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path


def user_cache_folder() -> Path:
    """Return ``$XDG_CACHE_HOME/mmcl_fast``, by default ``~/.cache/mmcl_fast``.

    Without a home folder it is a folder of the temporary directory that other users can't write to. A batch system,
    for example, may start a job without HOME and with a user id that has no name.
    """
    configured = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(configured):  # the XDG specification says to ignore a relative path
        return Path(configured) / "mmcl_fast"
    home = home_folder()
    return home / ".cache" / "mmcl_fast" if home else _temporary_folder()


def home_folder() -> Path | None:
    """Return the user's home folder, or None where the system knows none."""
    try:
        home = Path("~").expanduser()  # HOME, or else the entry of the user id
    except RuntimeError:
        return None
    # HOME may be empty or relative; containers started for a user id without a name set it to /.
    return home if home.is_absolute() and home.parent != home else None


def _temporary_folder() -> Path:
    """Return a folder of the temporary directory that only this user may write to.

    It is the same folder each time, unless another user got there first.
    """
    name = f"mmcl_fast-{os.getuid()}" if hasattr(os, "getuid") else "mmcl_fast"
    folder = Path(tempfile.gettempdir(), name)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return folder  # the caller tries to write there and says what fails
    is_ours = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    writable_by_others = status.st_mode & 0o022
    if is_ours and stat.S_ISDIR(status.st_mode) and not writable_by_others:
        return folder
    # Somebody else made the folder or may write to it, so its contents can't be trusted.
    return Path(tempfile.mkdtemp(prefix=f"{name}-"))
