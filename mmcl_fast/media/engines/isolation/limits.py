"""Limits of memory and time for decoding one file, from the settings of a config."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmcl_fast.errors import ConfigError

VARIABLE = "MMCL_FAST_ISOLATE"  # overrides the settings
LIMIT_NAMES = ("max_decode_mb", "max_decode_seconds", "max_decode_wait")


@dataclass(frozen=True)
class DecodeLimits:
    """Limits of decoding one file.

    Attributes:
        max_decode_mb: memory in addition to the worker's own, in 10^6 bytes. Only Linux enforces it.
        max_decode_seconds: processor time of all threads together, in seconds.
        max_decode_wait: elapsed time in seconds.

    Raises:
        ConfigError: a limit is not above 0.
    """

    max_decode_mb: float = 4000.0
    max_decode_seconds: float = 600.0
    max_decode_wait: float = 1200.0

    def __post_init__(self) -> None:
        for name in LIMIT_NAMES:
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} = {getattr(self, name)!r}: give a number above 0")


def limits_of(settings: Mapping[str, Any] | None) -> DecodeLimits:
    """Return the limits in a config's [media] table, with the default for each that is missing or None."""
    given = {name: (settings or {}).get(name) for name in LIMIT_NAMES}
    return DecodeLimits(**{name: float(value) for name, value in given.items() if value is not None})


def uses_workers(settings: Mapping[str, Any] | None) -> bool:
    """Return whether files are decoded in workers: by MMCL_FAST_ISOLATE (0 or 1), or else by ``media.isolate``.

    Raises:
        ConfigError: MMCL_FAST_ISOLATE has another value.
    """
    value = os.environ.get(VARIABLE, "")
    if value not in ("", "0", "1"):
        raise ConfigError(f"{VARIABLE} = {value!r}: set it to 0 or 1, or leave it out")
    return value == "1" if value else (settings or {}).get("isolate") is not False
