"""How much one file may take of the machine while it is decoded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmcl_fast.errors import ConfigError

VARIABLE = "MMCL_FAST_ISOLATE"  # goes before the settings
NAMES = ("max_decode_mb", "max_decode_seconds", "max_decode_wait")


@dataclass(frozen=True)
class Limits:
    """What decoding one file may take.

    Attributes:
        max_decode_mb: memory on top of the worker's own, in 10^6 bytes. Held on Linux.
        max_decode_seconds: processor time, in seconds, of all threads together.
        max_decode_wait: time on the clock, in seconds.

    Raises:
        ConfigError: a limit that is not above 0.
    """

    max_decode_mb: float = 4000.0
    max_decode_seconds: float = 600.0
    max_decode_wait: float = 1200.0

    def __post_init__(self) -> None:
        for name in NAMES:
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} = {getattr(self, name)!r}: give a number above 0")


def limits_of(settings: Mapping[str, Any] | None) -> Limits:
    """The limits among the settings of a config's [media]; the default for those that are missing or None."""
    given = {name: (settings or {}).get(name) for name in NAMES}
    return Limits(**{name: float(value) for name, value in given.items() if value is not None})


def wanted(settings: Mapping[str, Any] | None) -> bool:
    """Whether files are to be decoded in workers: as MMCL_FAST_ISOLATE (0 or 1) says, else as ``media.isolate`` does.

    Raises:
        ConfigError: another value of MMCL_FAST_ISOLATE.
    """
    told = os.environ.get(VARIABLE, "")
    if told not in ("", "0", "1"):
        raise ConfigError(f"{VARIABLE} = {told!r}: set it to 0 or 1, or leave it out")
    return told == "1" if told else (settings or {}).get("isolate") is not False
