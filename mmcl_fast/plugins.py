"""Python files of one's own that a command imports first, so that they may register what they hold.

A run folder never says what is to be imported: who reads a run names the files himself, with ``mmcl-fast --use``.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mmcl_fast.errors import ConfigError

NAMES = "MMCL_FAST_USE"  # what is imported, os.pathsep between; the processes that a command starts inherit it


def named() -> list[str]:
    """What was named so far."""
    return [name for name in os.environ.get(NAMES, "").split(os.pathsep) if name]


def words() -> list[str]:
    """The options that name it again, for a command that goes on with a run."""
    return [word for name in named() for word in ("--use", name)]


def load(names: Sequence[str] = ()) -> None:
    """Import what was named so far and ``names``: ``.py`` files, or modules as ``import`` knows them.

    Raises:
        ConfigError: one can't be imported, or registers what can't be registered.
    """
    wanted = [os.path.abspath(name) if name.endswith(".py") else name for name in names]
    wanted = list(dict.fromkeys([*named(), *wanted]))
    for name in wanted:
        _load(name)
    if wanted:
        os.environ[NAMES] = os.pathsep.join(wanted)


def _load(name: str) -> None:
    file = Path(name) if name.endswith(".py") else None
    if file is not None and not file.is_file():
        raise ConfigError(f"--use {name}: no such file")
    if file is not None and str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))  # it may import its neighbours
    try:
        module = importlib.import_module(file.stem if file is not None else name)
    except ConfigError:
        raise
    except Exception as fault:
        raise ConfigError(f"--use {name}: can't be imported ({type(fault).__name__}: {fault}); mend it") from fault
    found = getattr(module, "__file__", None)
    if file is not None and (found is None or not os.path.samefile(found, file)):
        raise ConfigError(f"--use {name}: another module is called {file.stem} ({found}); rename the file")
