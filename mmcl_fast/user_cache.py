"""The folder for what can be computed again: trunk outputs and indices of tar files."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path


def user_cache() -> Path:
    """``$XDG_CACHE_HOME/mmcl_fast``, by default ``~/.cache/mmcl_fast``.

    A batch system may start a job without HOME and with a user id that has no name. Then a folder of the temporary
    directory is taken, named by the user id and closed to other users. The XDG specification says that a relative
    ``XDG_CACHE_HOME`` counts as none.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):
        return Path(given) / "mmcl_fast"
    home = home_folder()
    return home / ".cache" / "mmcl_fast" if home else _temporary()


def home_folder() -> Path | None:
    """The user's home folder; None where the system knows none."""
    try:
        home = Path("~").expanduser()  # HOME, or else the entry of the user id
    except RuntimeError:
        return None
    # HOME may be empty or relative; containers started for a user id without a name set it to /.
    return home if home.is_absolute() and home.parent != home else None


def _temporary() -> Path:
    name = f"mmcl_fast-{os.getuid()}" if hasattr(os, "getuid") else "mmcl_fast"
    folder = Path(tempfile.gettempdir(), name)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return folder  # the caller tries to write there and says what fails
    own = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    if own and stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o022:
        return folder
    # Somebody else made it, or may write to it: what lies there can't be trusted.
    return Path(tempfile.mkdtemp(prefix=f"{name}-"))
