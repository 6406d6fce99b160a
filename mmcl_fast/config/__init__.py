"""The config of a run: its keys, loading it from TOML, and reading it back from a run folder."""

from __future__ import annotations

import warnings
from typing import Any

from mmcl_fast.config.loading import SHIPPED, build_config, find_config, load_config, parse_override
from mmcl_fast.config.run_config import read_json_object, read_run_config, read_run_values, require_same_data
from mmcl_fast.config.schema import DEVICE, LARGEST_SEED, Config
from mmcl_fast.option_fields import FormerNameWarning

__all__ = [
    "DEVICE",
    "LARGEST_SEED",
    "SHIPPED",
    "Config",
    "build_config",
    "find_config",
    "load_config",
    "parse_override",
    "read_json_object",
    "read_run_config",
    "read_run_values",
    "require_same_data",
]

FORMER_NAMES = {
    "build": "build_config",
    "check_data": "require_same_data",
    "find": "find_config",
    "load": "load_config",
    "read": "read_run_config",
    "read_object": "read_json_object",
    "recorded": "read_run_values",
}


def __getattr__(name: str) -> Any:
    """Return a function by its name in earlier versions, with a warning that says its name of today."""
    if name not in FORMER_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    today = FORMER_NAMES[name]
    warnings.warn(f"{__name__}.{name} is called {today} now", FormerNameWarning, stacklevel=2)
    return globals()[today]
