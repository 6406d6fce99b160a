"""Python files and modules of the user that a command imports first, so that they register their methods or encoders.

A run folder never names them, because reading a run must not execute code. The reader of a run names the files:
``mmcl-fast --use FILE.py``.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mmcl_fast.errors import ConfigError

# Holds the names with os.pathsep between them. The processes that a command starts inherit it and import them too.
ENVIRONMENT_VARIABLE = "MMCL_FAST_USE"


def plugin_names() -> list[str]:
    """Return the names that this process has loaded or inherited."""
    return [name for name in os.environ.get(ENVIRONMENT_VARIABLE, "").split(os.pathsep) if name]


def command_options() -> list[str]:
    """Return the options that load the same plugins again, for a command line that the user is told to run."""
    return [word for name in plugin_names() for word in ("--use", name)]


def load(names: Sequence[str] = ()) -> None:
    """Import the plugins loaded so far or inherited, and ``names``.

    Args:
        names: paths of ``.py`` files, or names of modules.

    Raises:
        ConfigError: a plugin cannot be imported, or registers something that is refused.
    """
    paths = [os.path.abspath(name) if name.endswith(".py") else name for name in names]
    all_names = list(dict.fromkeys([*plugin_names(), *paths]))
    for name in all_names:
        _load(name)
    if all_names:
        os.environ[ENVIRONMENT_VARIABLE] = os.pathsep.join(all_names)


def _load(name: str) -> None:
    file = Path(name) if name.endswith(".py") else None
    if file is not None and not file.is_file():
        raise ConfigError(f"--use {name}: no such file")
    if file is not None and str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))  # the file may import modules of its own folder
    try:
        module = importlib.import_module(file.stem if file is not None else name)
    except ConfigError:
        raise
    except Exception as fault:
        raise ConfigError(f"--use {name}: can't be imported ({type(fault).__name__}: {fault}); mend it") from fault
    found = getattr(module, "__file__", None)
    if file is not None and (found is None or not os.path.samefile(found, file)):
        raise ConfigError(f"--use {name}: another module is called {file.stem} ({found}); rename the file")
